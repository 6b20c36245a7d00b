import * as NodeServices from "@effect/platform-node/NodeServices"
import { plainly } from "@uniprefill/units/Plainly"
import { Cause, Effect, Exit, Result, Runtime } from "effect"
import * as Cli from "./cli/Cli.ts"
import { UsageError } from "./cli/UsageError.ts"

/** A signal to a whole process group may also be passed on by a parent: one press of Ctrl-C, twice received. */
const sameSignalMs = 500

const exitCodes = { failure: 1, usage: 2, interrupted: 130 } as const

/**
 * Runs the program as this process. A first SIGINT or SIGTERM interrupts it, which for a server means to drain; a second
 * ends the process at once. Exit codes: 0, also when SIGTERM ended a server; 1 on a failure, 2 on wrong usage, 130 on
 * Ctrl-C.
 */
const runMain = Runtime.makeRunMain(({ fiber }) => {
  let received: NodeJS.Signals | undefined
  let receivedAt = 0
  const onSignal = (signal: NodeJS.Signals) => {
    const now = performance.now()
    if (received === signal && now - receivedAt < sameSignalMs) return
    if (received !== undefined) process.exit(exitCodes.interrupted)
    received = signal
    receivedAt = now
    process.exitCode = signal === "SIGTERM" ? 0 : exitCodes.interrupted
    fiber.interruptUnsafe(fiber.id)
  }
  process.on("SIGINT", onSignal)
  process.on("SIGTERM", onSignal)
  // Under the entry script: that process is gone, and nobody passes signals on or waits for this one.
  if (process.channel !== undefined) {
    process.channel?.unref()
    process.on("disconnect", () => process.exit(exitCodes.failure))
  }
  // The reader of a pipe has gone away: as other filters do, end without a word.
  process.stdout.on("error", (error: NodeJS.ErrnoException) =>
    process.exit(error.code === "EPIPE" ? 0 : exitCodes.failure),
  )
  fiber.addObserver((exit) => process.exit(codeOf(exit, received)))
})

const codeOf = (exit: Exit.Exit<unknown, unknown>, signal: NodeJS.Signals | undefined): number => {
  if (Exit.isSuccess(exit)) return 0
  if (Cause.hasInterruptsOnly(exit.cause)) return signal === "SIGTERM" ? 0 : exitCodes.interrupted
  const error = Cause.findError(exit.cause)
  if (Result.isFailure(error)) {
    process.stderr.write(`uniprefill: internal error\n${Cause.pretty(exit.cause)}\n`)
    return exitCodes.failure
  }
  if (isHelp(error.success)) return error.success.errors.length === 0 ? 0 : exitCodes.usage
  process.stderr.write(`uniprefill: ${plainly((error.success as { readonly message: string }).message)}\n`)
  return error.success instanceof UsageError ? exitCodes.usage : exitCodes.failure
}

/** The command line was wrong, or none was given: help has been printed. */
const isHelp = (error: unknown): error is { readonly errors: ReadonlyArray<unknown> } =>
  (error as { readonly _tag?: string })._tag === "ShowHelp"

runMain(Effect.provide(Cli.run, NodeServices.layer), { disableErrorReporting: true })
