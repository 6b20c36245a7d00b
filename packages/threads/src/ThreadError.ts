import { Schema } from "effect"

/**
 * Why a job was not done: `QueueFull` names the limit that was reached, `Failed` says that the job threw, `ThreadLost` that
 * its thread died under it or the pool was closed.
 */
export class ThreadError extends Schema.TaggedError<ThreadError>()("ThreadError", {
  reason: Schema.Literals(["QueueFull", "Failed", "ThreadLost"]),
  detail: Schema.String,
}) {
  override get message(): string {
    return this.detail
  }
}
