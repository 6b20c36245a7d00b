import { NodeServices } from "@effect/platform-node"
import { Cause, Effect, Exit, Result, Runtime } from "effect"
import * as Cli from "./Cli.ts"
import { control } from "./Drive.ts"

const exitCodes = { failure: 1, usage: 2, interrupted: 130 } as const

/** Errors that a user can mend: their message says all. */
const usageErrors = new Set([
  "UsageError",
  "ScenarioError",
  "TraceError",
  "SetupError",
  "CalibrationError",
  "ModelError",
  "PolicyFault",
  "PolicyModuleError",
  "RecordingFileError",
  "RangeError",
])

/**
 * Runs the program as this process. The first Ctrl-C ends a simulation early, and its partial result is written and marked
 * as such; a second one ends the process at once.
 */
const runMain = Runtime.makeRunMain(({ fiber }) => {
  const onSignal = () => {
    if (control.interrupted) process.exit(exitCodes.interrupted)
    control.interrupted = true
  }
  process.on("SIGINT", onSignal)
  process.on("SIGTERM", onSignal)
  process.stdout.on("error", (error: NodeJS.ErrnoException) =>
    process.exit(error.code === "EPIPE" ? 0 : exitCodes.failure),
  )
  fiber.addObserver((exit) => {
    const code = codeOf(exit)
    if (code !== 0) process.exitCode = code
  })
})

const codeOf = (exit: Exit.Exit<unknown, unknown>): number => {
  if (Exit.isSuccess(exit)) return control.interrupted ? exitCodes.interrupted : 0
  const error = Cause.findError(exit.cause)
  const failure = Result.isSuccess(error) ? error.success : Cause.squash(exit.cause)
  if ((failure as { readonly _tag?: string })._tag === "ShowHelp") {
    return (failure as { readonly errors: ReadonlyArray<unknown> }).errors.length === 0 ? 0 : exitCodes.usage
  }
  if (failure instanceof Error && usageErrors.has(failure.name)) {
    process.stderr.write(`uniprefill-sim: ${failure.message}\n`)
    return exitCodes.usage
  }
  process.stderr.write(`uniprefill-sim: internal error\n${Cause.pretty(exit.cause)}\n`)
  return exitCodes.failure
}

runMain(Effect.provide(Cli.run, NodeServices.layer), { disableErrorReporting: true })
