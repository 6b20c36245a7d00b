import { type Completion, type CompletionChunk, type CompletionLogprobs } from "@uniprefill/openai/Completion"
import { errorBody } from "@uniprefill/openai/ErrorBody"
import type { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { type AnswerFormat, done, frameText, sse, textFrame } from "../answers/AnswerFormat.ts"
import {
  type AnswerEvent,
  type AnswerPlan,
  dropReport,
  type Finished,
  type PlannedChoice,
  stopReasonOf,
} from "../answers/AnswerPlan.ts"
import { messagesOf } from "../answers/Messages.ts"
import { type StreamUsage, UsageCount } from "../answers/UsageCount.ts"
import { LogprobsFormat } from "./CompletionLogprobs.ts"

/** The engine's events in the wire format of completions. */
export const completionFormat = (
  plan: AnswerPlan,
  tokenizer: Pick<Tokenizer["Service"], "tokenText" | "detokenizer">,
  streamUsage: StreamUsage,
): AnswerFormat => {
  const { id, createdSeconds, model } = plan
  const head = { id, object: "text_completion" as const, created: createdSeconds, model }
  const usage = new UsageCount(plan)
  const ends: Array<Finished> = []
  const texts = plan.choices.map((choice) => new ChoiceText(choice, tokenizer))

  const chunkOf = (choice: PlannedChoice, part: Part, end: Finished | null): CompletionChunk => ({
    ...head,
    choices: [
      {
        index: choice.index,
        text: part.text,
        logprobs: part.logprobs,
        finish_reason: end?.reason ?? null,
        stop_reason: end === null ? null : stopReasonOf(plan, end),
      },
    ],
    ...usage.inChunk(streamUsage),
    ...dropReport(plan, end === null ? [] : [end]),
  })
  const frames: Array<(text: string) => string> = []
  const chunk = (choice: PlannedChoice, part: Part, end: Finished | null): string => {
    const isTextAlone = part.logprobs === null && end === null && streamUsage !== "continuous"
    if (!isTextAlone) return sse(chunkOf(choice, part, end))
    frames[choice.index] ??= textFrame(chunkOf(choice, { text: frameText, logprobs: null }, null))
    return frames[choice.index]!(part.text)
  }

  return {
    // A prompt with log-probabilities waits for them.
    begin: () =>
      plan.choices
        .filter(({ prefix, request }) => prefix !== "" && request.promptLogprobs === undefined)
        .map((choice) => chunk(choice, texts[choice.index]!.echo(), null))
        .join(""),
    events: (choice, events) => {
      const text = texts[choice.index]!
      return messagesOf(choice, events, usage, (event, end) => {
        const part = text.take(event, end !== null)
        return part.text !== "" || part.logprobs !== null || end !== null ? chunk(choice, part, end) : ""
      })
    },
    end: () => `${streamUsage === "none" ? "" : sse({ ...head, choices: [], usage: usage.usage })}${done}`,
    failed: ({ status, message, param }) => `${sse(errorBody(status, message, param))}${done}`,
    add: (choice, event) => {
      usage.add(choice, event)
      texts[choice.index]!.add(event)
      if (event._tag === "Finished") ends[choice.index] = event
    },
    whole: () => {
      const choices = plan.choices.map((choice, i) => ({
        index: choice.index,
        ...texts[i]!.whole,
        finish_reason: ends[i]!.reason,
        stop_reason: stopReasonOf(plan, ends[i]!),
      }))
      return { ...head, choices, usage: usage.usage, ...dropReport(plan, ends) } satisfies Completion
    },
  }
}

interface Part {
  readonly text: string
  readonly logprobs: CompletionLogprobs | null
}

/** One choice's text, and what is known of its tokens' places in it. */
class ChoiceText {
  readonly #choice: PlannedChoice
  readonly #output: LogprobsFormat | null
  readonly #prompt: LogprobsFormat | null
  #length = 0
  #text = ""
  #logprobs: CompletionLogprobs | null

  constructor(choice: PlannedChoice, tokenizer: Pick<Tokenizer["Service"], "tokenText" | "detokenizer">) {
    const { request, prefix } = choice
    this.#choice = choice
    this.#logprobs =
      request.sampling.logprobs < 0 ? null : { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] }
    this.#output =
      request.sampling.logprobs < 0
        ? null
        : new LogprobsFormat(
            tokenizer,
            tokenizer.detokenizer({ skipSpecialTokens: request.skipSpecialTokens, after: request.prompt }),
            prefix.length,
          )
    this.#prompt =
      request.promptLogprobs === undefined
        ? null
        : new LogprobsFormat(tokenizer, tokenizer.detokenizer({ skipSpecialTokens: false }), 0)
    if (this.#prompt === null) {
      this.#text = prefix
      this.#length = prefix.length
    }
  }

  echo(): Part {
    return { text: this.#choice.prefix, logprobs: null }
  }

  take(event: AnswerEvent, ended: boolean): Part {
    if (event._tag === "Prompt") {
      const { prefix, request } = this.#choice
      const { first, logprobs } = event
      this.#length = prefix.length
      this.#prompt!.push([...request.prompt.subarray(first, first + logprobs.length)], logprobs)
      return { text: first === 0 ? prefix : "", logprobs: this.#prompt!.take(this.#length, true) }
    }
    if (event._tag === "Finished") return { text: "", logprobs: this.#output?.take(this.#length, true) ?? null }
    this.#length += event.text.length
    this.#output?.push(event.tokens, event.logprobs)
    return { text: event.text, logprobs: this.#output?.take(this.#length, ended) ?? null }
  }

  /** Takes an event for {@link whole}. */
  add(event: AnswerEvent): void {
    const { text, logprobs } = this.take(event, event._tag === "Finished")
    this.#text += text
    if (logprobs !== null) this.#logprobs = this.#logprobs === null ? logprobs : joined(this.#logprobs, logprobs)
  }

  /** All of the answer, and its prompt where that is echoed. */
  get whole(): Part {
    return { text: this.#text, logprobs: this.#logprobs }
  }
}

const joined = (first: CompletionLogprobs, second: CompletionLogprobs): CompletionLogprobs => {
  // The lists are of this answer alone, and long: they are added to.
  const into = first as { -readonly [Key in keyof CompletionLogprobs]: Array<CompletionLogprobs[Key][number]> }
  for (const token of second.tokens) into.tokens.push(token)
  for (const logprob of second.token_logprobs) into.token_logprobs.push(logprob)
  for (const top of second.top_logprobs) into.top_logprobs.push(top)
  for (const offset of second.text_offset) into.text_offset.push(offset)
  return first
}
