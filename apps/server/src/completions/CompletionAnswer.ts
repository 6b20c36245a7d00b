import type { GenerateEvent } from "@uniprefill/engine/Engine"
import {
  type Completion,
  type CompletionChunk,
  type CompletionLogprobs,
  type Usage,
  usageOf,
} from "@uniprefill/openai/Completion"
import type { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import type { CompletionPlan, PlannedChoice } from "./CompletionPlan.ts"
import { LogprobsFormat } from "./Logprobs.ts"

type Finished = Extract<GenerateEvent, { _tag: "Finished" }>

/** Turns the engine's events into the wire format: chunks of a stream, or a whole completion. Counts the usage. */
export class CompletionAnswer {
  readonly #plan: CompletionPlan
  readonly #logprobs: ReadonlyArray<LogprobsFormat>
  #completionTokens = 0
  #cachedTokens = 0
  #finished = 0

  constructor(plan: CompletionPlan, tokenizer: Pick<Tokenizer["Service"], "tokenText">) {
    this.#plan = plan
    this.#logprobs = plan.choices.map(() => new LogprobsFormat(tokenizer))
  }

  get complete(): boolean {
    return this.#finished === this.#plan.choices.length
  }

  get usage(): Usage {
    return usageOf(this.#plan.promptTokens, this.#completionTokens, this.#cachedTokens)
  }

  #head() {
    const { id, createdSeconds, model } = this.#plan
    return { id, object: "text_completion" as const, created: createdSeconds, model }
  }

  #count(choice: PlannedChoice, event: Finished): void {
    this.#finished++
    this.#completionTokens += event.completionTokens
    // The answers to a prompt share it.
    if (choice.answer === 0) this.#cachedTokens += event.cachedTokens
  }

  #stopReason(event: Finished): string | number | null {
    const { stopReason } = event
    return typeof stopReason === "number" && this.#plan.silentStops.has(stopReason) ? null : stopReason
  }

  #chunk(
    choice: PlannedChoice,
    text: string,
    logprobs: CompletionLogprobs | null,
    end: Finished | null,
  ): CompletionChunk {
    if (end !== null) this.#count(choice, end)
    return {
      ...this.#head(),
      choices: [
        {
          index: choice.index,
          text,
          logprobs,
          finish_reason: end?.reason ?? null,
          stop_reason: end === null ? null : this.#stopReason(end),
        },
      ],
      ...(this.#plan.includeUsage ? { usage: null } : {}),
      ...(end !== null && this.#plan.report ? { uniprefill: { kept: end.kept } } : {}),
    }
  }

  /** The chunk that echoes a prompt. */
  echo(choice: PlannedChoice): CompletionChunk {
    return this.#chunk(choice, choice.prefix, null, null)
  }

  /**
   * Chunks of events that came together: one for each output, the last of which also carries the end if it is there.
   * Output that brings nothing to show, such as a part of a character, has none.
   */
  chunks(choice: PlannedChoice, events: ReadonlyArray<GenerateEvent>): Array<CompletionChunk> {
    const chunks: Array<CompletionChunk> = []
    for (let i = 0; i < events.length; i++) {
      const event = events[i]!
      if (event._tag === "Finished") {
        chunks.push(this.#chunk(choice, "", null, event))
        continue
      }
      const next = events[i + 1]
      const end = next?._tag === "Finished" ? next : null
      if (end !== null) i++
      const logprobs = this.#formatLogprobs(choice, event.logprobs)
      if (event.text === "" && logprobs === null && end === null) continue
      chunks.push(this.#chunk(choice, event.text, logprobs, end))
    }
    return chunks
  }

  /** The chunk after the last, with the usage and without choices. */
  usageChunk(): CompletionChunk {
    return { ...this.#head(), choices: [], usage: this.usage }
  }

  /** Requires: the events of every choice, in the order of the choices, each list with its `Finished`. */
  completion(events: ReadonlyArray<ReadonlyArray<GenerateEvent>>): Completion {
    let kept: ReadonlyArray<number> = []
    const choices = this.#plan.choices.map((choice, i) => {
      let text = choice.prefix
      const entries = []
      let end: Finished | undefined
      for (const event of events[i]!) {
        if (event._tag === "Finished") end = event
        else {
          text += event.text
          entries.push(...event.logprobs)
        }
      }
      this.#count(choice, end!)
      if (i === 0) kept = end!.kept
      return {
        index: choice.index,
        text,
        logprobs: this.#formatLogprobs(choice, entries),
        finish_reason: end!.reason,
        stop_reason: this.#stopReason(end!),
      }
    })
    return { ...this.#head(), choices, usage: this.usage, ...(this.#plan.report ? { uniprefill: { kept } } : {}) }
  }

  #formatLogprobs(choice: PlannedChoice, entries: Parameters<LogprobsFormat["format"]>[0]): CompletionLogprobs | null {
    if (choice.request.sampling.logprobs < 0) return null
    return this.#logprobs[choice.index]!.format(entries)
  }
}
