import { type Usage, usageOf } from "@uniprefill/openai/Completion"
import type { AnswerEvent, AnswerPlan, PlannedChoice } from "./AnswerPlan.ts"

/** What a stream says of the usage: nothing, all of it in a last event, or also what it is so far in every event. */
export type StreamUsage = "none" | "last" | "continuous"

export const streamUsageOf = (
  options:
    | {
        readonly include_usage?: boolean | null | undefined
        readonly continuous_usage_stats?: boolean | null | undefined
      }
    | null
    | undefined,
): StreamUsage =>
  options?.include_usage !== true ? "none" : options.continuous_usage_stats === true ? "continuous" : "last"

/** Counts the usage of a request from its events. */
export class UsageCount {
  readonly #plan: AnswerPlan
  #completionTokens = 0
  #cachedTokens = 0
  /** Tokens of each choice so far; the end says how many of them are in the answer. */
  readonly #soFar: Array<number>

  constructor(plan: AnswerPlan) {
    this.#plan = plan
    this.#soFar = plan.choices.map(() => 0)
  }

  add(choice: PlannedChoice, event: AnswerEvent): void {
    if (event._tag === "Output") {
      this.#soFar[choice.index]! += event.tokens.length
      this.#completionTokens += event.tokens.length
    } else if (event._tag === "Finished") {
      this.#completionTokens += event.completionTokens - this.#soFar[choice.index]!
      this.#soFar[choice.index] = event.completionTokens
      // The answers to a prompt share it.
      if (choice.answer === 0) this.#cachedTokens += event.cachedTokens
    }
  }

  get usage(): Usage {
    return usageOf(this.#plan.promptTokens, this.#completionTokens, this.#cachedTokens)
  }

  /** The field `usage` of a chunk that has choices. */
  inChunk(stream: StreamUsage): { readonly usage?: Usage | null } {
    return stream === "none" ? {} : { usage: stream === "continuous" ? this.usage : null }
  }
}
