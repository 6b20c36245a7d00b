import { ExecutorError, type ExecutorReason } from "@uniprefill/executor/contract/Executor"
import type { NativeFailure } from "./NativeLibrary.ts"

/** up_status by name, and the reason that the executor gives for it. */
export const reasonOfStatus: { readonly [status: string]: ExecutorReason } = {
  UP_INVALID_ARGUMENT: "InvalidArgument",
  UP_UNSUPPORTED_MODEL: "UnsupportedModel",
  UP_UNSUPPORTED_DTYPE: "UnsupportedDtype",
  UP_CORRUPT_FILE: "CorruptFile",
  UP_OUT_OF_MEMORY: "OutOfMemory",
  UP_DEVICE_LOST: "DeviceLost",
  UP_LAUNCH_FAILED: "LaunchFailed",
  UP_INTERNAL: "Internal",
  UP_INVALID_PLAN: "InvalidPlan",
}

const isNativeFailure = (error: unknown): error is NativeFailure =>
  error instanceof Error && "status" in error && "phase" in error && "detail" in error

/** What the library threw, as an ExecutorError; `operation` is what was being done. */
export const toExecutorError = (operation: string, error: unknown): ExecutorError => {
  if (error instanceof ExecutorError) return error
  if (isNativeFailure(error)) {
    const reason = reasonOfStatus[error.status] ?? "Internal"
    // What is wrong with a plan begins with its section and record.
    const detail = reason === "InvalidPlan" ? error.detail : `${error.phase}: ${error.detail}`
    return new ExecutorError({ reason, operation, detail })
  }
  if (error instanceof TypeError)
    return new ExecutorError({ reason: "InvalidArgument", operation, detail: error.message })
  return new ExecutorError({ reason: "Internal", operation, detail: String(error) })
}
