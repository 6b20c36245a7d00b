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
    whole: (events) => {
      const choices = plan.choices.map((choice, i) => {
        for (const event of events[i]!) usage.add(choice, event)
        const end = events[i]!.at(-1) as Finished
        return {
          index: choice.index,
          ...texts[i]!.whole(events[i]!),
          finish_reason: end.reason,
          stop_reason: stopReasonOf(plan, end),
        }
      })
      const report = dropReport(
        plan,
        events.map((of) => of.at(-1) as Finished),
      )
      return { ...head, choices, usage: usage.usage, ...report } satisfies Completion
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

  constructor(choice: PlannedChoice, tokenizer: Pick<Tokenizer["Service"], "tokenText" | "detokenizer">) {
    const { request, prefix } = choice
    this.#choice = choice
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
  }

  echo(): Part {
    this.#length = this.#choice.prefix.length
    return { text: this.#choice.prefix, logprobs: null }
  }

  take(event: AnswerEvent, ended: boolean): Part {
    if (event._tag === "Prompt") {
      const { prefix, request } = this.#choice
      this.#length = prefix.length
      this.#prompt!.push([...request.prompt], event.logprobs)
      return { text: prefix, logprobs: this.#prompt!.take(this.#length, true) }
    }
    if (event._tag === "Finished") return { text: "", logprobs: this.#output?.take(this.#length, true) ?? null }
    this.#length += event.text.length
    this.#output?.push(event.tokens, event.logprobs)
    return { text: event.text, logprobs: this.#output?.take(this.#length, ended) ?? null }
  }

  whole(events: ReadonlyArray<AnswerEvent>): Part {
    const { prefix, request } = this.#choice
    const parts = request.promptLogprobs === undefined && prefix !== "" ? [this.echo()] : []
    let logprobs: CompletionLogprobs | null =
      this.#output === null ? null : { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] }
    for (const event of events) parts.push(this.take(event, event._tag === "Finished"))
    for (const { logprobs: more } of parts) {
      if (more !== null) logprobs = logprobs === null ? more : joined(logprobs, more)
    }
    return { text: parts.map(({ text }) => text).join(""), logprobs }
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
