import { plainly } from "@uniprefill/units/Plainly"
import { Cause, Exit, Result } from "effect"

export const exitCodes = { failure: 1, usage: 2, interrupted: 130 } as const

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

export interface Ending {
  readonly code: number
  /** What standard error is to say; empty where nothing is left to be said. */
  readonly message: string
}

/** How a process ends whose program came to this exit. */
export const endingOf = (exit: Exit.Exit<unknown, unknown>): Ending => {
  if (Exit.isSuccess(exit)) return { code: 0, message: "" }
  const error = Cause.findError(exit.cause)
  const failure = Result.isSuccess(error) ? error.success : Cause.squash(exit.cause)
  if ((failure as { readonly _tag?: string })._tag === "ShowHelp") {
    const { errors } = failure as { readonly errors: ReadonlyArray<unknown> }
    return { code: errors.length === 0 ? 0 : exitCodes.usage, message: "" }
  }
  if (failure instanceof Error && usageErrors.has(failure.name)) {
    return { code: exitCodes.usage, message: `uniprefill-sim: ${plainly(failure.message)}\n` }
  }
  return { code: exitCodes.failure, message: `uniprefill-sim: internal error\n${Cause.pretty(exit.cause)}\n` }
}
