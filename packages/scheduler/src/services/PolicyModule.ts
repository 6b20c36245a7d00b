import { Effect, Schema } from "effect"
import type { Policy } from "../Policy.ts"

/** A module that holds no policy: which, and why. */
export class PolicyModuleError extends Schema.TaggedError<PolicyModuleError>()("PolicyModuleError", {
  reason: Schema.Literals(["Unreadable", "NotAPolicy"]),
  module: Schema.String,
  detail: Schema.String,
}) {
  override get message(): string {
    return `policy ${this.module}: ${this.detail}`
  }
}

/**
 * Loads a policy from the default export of a module: `{ name, byPriority?, order?, victims?, preempts?, preemptsAfterMicros? }`. `module` is its URL. Runs the module's
 * code: as trusted as the command line that names it.
 */
export const loadPolicy = (module: string): Effect.Effect<Policy, PolicyModuleError> =>
  Effect.gen(function* () {
    const loaded = yield* Effect.tryPromise({
      try: () => import(module) as Promise<{ readonly default?: unknown }>,
      catch: (cause) =>
        new PolicyModuleError({
          reason: "Unreadable",
          module,
          detail: cause instanceof Error ? cause.message : String(cause),
        }),
    })
    const fault = faultOf(loaded.default)
    if (fault !== null) return yield* new PolicyModuleError({ reason: "NotAPolicy", module, detail: fault })
    return loaded.default as Policy
  })

const faultOf = (value: unknown): string | null => {
  if (typeof value !== "object" || value === null) {
    return `the default export is ${value === undefined ? "missing" : `a ${typeof value}`}, expected an object with a name`
  }
  const { name, byPriority, order, victims, preempts, preemptsAfterMicros, ...others } = value as Record<
    string,
    unknown
  >
  if (typeof name !== "string" || name === "") return "name is missing or not a string"
  if (byPriority !== undefined && typeof byPriority !== "boolean")
    return `byPriority is a ${typeof byPriority}, expected true or false`
  for (const [field, member] of Object.entries({ order, victims, preempts })) {
    if (member !== undefined && typeof member !== "function")
      return `${field} is a ${typeof member}, expected a function`
  }
  if (preemptsAfterMicros !== undefined && (typeof preemptsAfterMicros !== "number" || !(preemptsAfterMicros >= 0)))
    return `preemptsAfterMicros is ${typeof preemptsAfterMicros === "number" ? preemptsAfterMicros : `a ${typeof preemptsAfterMicros}`}, expected a number ≥ 0`
  const unknown = Object.keys(others)[0]
  return unknown === undefined
    ? null
    : `there is no member ${JSON.stringify(unknown)}; there are name, byPriority, order, victims, preempts and preemptsAfterMicros`
}
