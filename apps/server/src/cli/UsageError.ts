import { Data } from "effect"

/** A command that cannot be carried out as it was given: exit code 2. */
export class UsageError extends Data.TaggedError("UsageError")<{ readonly message: string }> {}
