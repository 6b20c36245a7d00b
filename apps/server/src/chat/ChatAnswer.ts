import type { ChatCompletion, ChatCompletionChunk, ChatDelta, ChatLogprobs } from "@uniprefill/openai/ChatCompletion"
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
import { chatLogprobs } from "./ChatLogprobs.ts"
import { type ReasoningMarks, ReasoningSplit } from "./ReasoningSplit.ts"

/** The engine's events in the wire format of chat completions. */
export const chatFormat = (
  plan: AnswerPlan,
  reasoning: ReasoningMarks | null,
  tokenizer: Pick<Tokenizer["Service"], "tokenText" | "tokenBytes">,
  streamUsage: StreamUsage,
): AnswerFormat => {
  const { id, createdSeconds, model } = plan
  const head = { id, created: createdSeconds, model }
  const usage = new UsageCount(plan)
  const splits = plan.choices.map(() => new ReasoningSplit(reasoning))
  const texts = splits.map((split) => new WholeText(split))
  const wholeLogprobs = plan.choices.map((): Array<ChatLogprobs["content"][number]> => [])
  const ends: Array<Finished> = []

  const chunkOf = (
    choice: PlannedChoice,
    delta: ChatDelta,
    logprobs: ChatLogprobs | null,
    end: Finished | null,
  ): ChatCompletionChunk => ({
    ...head,
    object: "chat.completion.chunk",
    choices: [
      {
        index: choice.index,
        delta,
        logprobs,
        finish_reason: end?.reason ?? null,
        stop_reason: end === null ? null : stopReasonOf(plan, end),
      },
    ],
    ...usage.inChunk(streamUsage),
    ...dropReport(plan, end === null ? [] : [end]),
  })
  const chunk = (choice: PlannedChoice, delta: ChatDelta, logprobs: ChatLogprobs | null, end: Finished | null) =>
    sse(chunkOf(choice, delta, logprobs, end))
  const frames: Array<(text: string) => string> = []
  const contentChunk = (choice: PlannedChoice, content: string): string => {
    frames[choice.index] ??= textFrame(chunkOf(choice, { content: frameText }, null, null))
    return frames[choice.index]!(content)
  }

  const logprobsOf = (choice: PlannedChoice, event: AnswerEvent): ChatLogprobs | null => {
    const { logprobs: top } = choice.request.sampling
    return top < 0 || event._tag !== "Output" ? null : chatLogprobs(event.logprobs, top, tokenizer)
  }

  return {
    begin: () => plan.choices.map((choice) => chunk(choice, { role: "assistant", content: "" }, null, null)).join(""),
    events: (choice, events) => {
      const split = splits[choice.index]!
      return messagesOf(choice, events, usage, (event, end) => {
        const text = event._tag === "Output" ? split.push(event.text) : none
        const rest = end === null ? none : split.flush()
        const thoughts = text.reasoning + rest.reasoning
        const said = text.content + rest.content
        const logprobs = logprobsOf(choice, event)
        const isTextAlone = thoughts === "" && logprobs === null && end === null && streamUsage !== "continuous"
        if (isTextAlone) return said === "" ? "" : contentChunk(choice, said)
        const delta = {
          ...(thoughts === "" ? {} : { reasoning_content: thoughts }),
          ...(said === "" ? {} : { content: said }),
        }
        if (thoughts !== "" || said !== "" || end !== null || (logprobs !== null && logprobs.content.length > 0)) {
          return chunk(choice, delta, logprobs, end)
        }
        return ""
      })
    },
    end: () => {
      const last = { ...head, object: "chat.completion.chunk", choices: [], usage: usage.usage } as const
      return `${streamUsage === "none" ? "" : sse(last satisfies ChatCompletionChunk)}${done}`
    },
    failed: ({ status, message, param }) => `${sse(errorBody(status, message, param))}${done}`,
    add: (choice, event) => {
      usage.add(choice, event)
      texts[choice.index]!.add(event)
      for (const token of logprobsOf(choice, event)?.content ?? []) wholeLogprobs[choice.index]!.push(token)
      if (event._tag === "Finished") ends[choice.index] = event
    },
    whole: () => {
      const choices = plan.choices.map((choice, i) => {
        const text = texts[i]!
        const end = ends[i]!
        return {
          index: choice.index,
          message: {
            role: "assistant" as const,
            content: text.content,
            refusal: null,
            ...(text.reasoning === "" ? {} : { reasoning_content: text.reasoning }),
          },
          logprobs: choice.request.sampling.logprobs < 0 ? null : { content: wholeLogprobs[i]!, refusal: null },
          finish_reason: end.reason,
          stop_reason: stopReasonOf(plan, end),
        }
      })
      return {
        ...head,
        object: "chat.completion",
        choices,
        usage: usage.usage,
        ...dropReport(plan, ends),
      } satisfies ChatCompletion
    },
  }
}

const none = { reasoning: "", content: "" }

/** An answer's text in its two parts. */
export class WholeText {
  reasoning = ""
  content = ""
  readonly #split: ReasoningSplit

  constructor(split: ReasoningSplit) {
    this.#split = split
  }

  add(event: AnswerEvent): void {
    if (event._tag === "Output") this.#put(this.#split.push(event.text))
    if (event._tag === "Finished") this.#put(this.#split.flush())
  }

  #put(part: { readonly reasoning: string; readonly content: string }): void {
    this.reasoning += part.reasoning
    this.content += part.content
  }
}
