import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect, Runtime } from "effect"
import * as Cli from "./Cli.ts"
import { control } from "./Drive.ts"
import { endingOf, exitCodes } from "./Ending.ts"

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
    const { code, message } = endingOf(exit)
    process.stderr.write(message)
    if (code !== 0) process.exitCode = code
    else if (control.interrupted) process.exitCode = exitCodes.interrupted
  })
})

runMain(Effect.provide(Cli.run, NodeServices.layer), { disableErrorReporting: true })
