import { messagesErrorBody } from "@uniprefill/openai/MessagesRequest"
import { type AnswerFormat, sse } from "../answers/AnswerFormat.ts"
import { type AnswerPlan, dropReport, type Finished } from "../answers/AnswerPlan.ts"
import { UsageCount } from "../answers/UsageCount.ts"
import { WholeText } from "../chat/ChatAnswer.ts"
import { type ReasoningMarks, ReasoningSplit } from "../chat/ReasoningSplit.ts"

/** The engine's events as a message: its thoughts, if any, as one block, what it says as another. */
export const messageFormat = (plan: AnswerPlan, reasoning: ReasoningMarks | null): AnswerFormat => {
  const usage = new UsageCount(plan)
  const [choice] = plan.choices
  const split = new ReasoningSplit(reasoning)
  const whole = new WholeText(split)
  let end: Finished | null = null
  let block: "none" | "thinking" | "text" = "none"
  let index = -1
  const event = (type: string, fields: object) => sse({ type, ...fields }, type)
  const message = (content: ReadonlyArray<object>) => ({
    id: plan.id,
    type: "message",
    role: "assistant",
    model: plan.model,
    content,
    stop_reason: end === null ? null : stopOf(end),
    stop_sequence: end === null ? null : sequenceOf(end),
    usage: usageOf(usage),
    ...dropReport(plan, end === null ? [] : [end]),
  })

  const open = (kind: "thinking" | "text"): string => {
    const closed = close()
    block = kind
    index++
    const empty = kind === "text" ? { type: "text", text: "" } : { type: "thinking", thinking: "", signature: "" }
    return closed + event("content_block_start", { index, content_block: empty })
  }
  const close = (): string => (block === "none" ? "" : event("content_block_stop", { index }))
  const say = (part: { readonly reasoning: string; readonly content: string }): string => {
    let out = ""
    if (part.reasoning !== "") {
      if (block === "none") out += open("thinking")
      out += event("content_block_delta", { index, delta: { type: "thinking_delta", thinking: part.reasoning } })
    }
    if (part.content !== "") {
      if (block !== "text") out += open("text")
      out += event("content_block_delta", { index, delta: { type: "text_delta", text: part.content } })
    }
    return out
  }

  return {
    begin: () => event("message_start", { message: message([]) }),
    events: (_, events) => {
      let out = ""
      for (const generated of events) {
        usage.add(choice!, generated)
        if (generated._tag === "Output") out += say(split.push(generated.text))
        if (generated._tag === "Finished") end = generated
      }
      return out
    },
    end: () => {
      const delta = { stop_reason: stopOf(end!), stop_sequence: sequenceOf(end!) }
      return (
        say(split.flush()) +
        (block === "text" ? "" : open("text")) +
        close() +
        event("message_delta", { delta, usage: usageOf(usage), ...dropReport(plan, [end!]) }) +
        event("message_stop", {})
      )
    },
    failed: ({ status, message: text }) => sse(messagesErrorBody(status, text), "error"),
    add: (_, generated) => {
      usage.add(choice!, generated)
      whole.add(generated)
      if (generated._tag === "Finished") end = generated
    },
    whole: () => {
      const { reasoning: thinking, content } = whole
      const thoughts = thinking === "" ? [] : [{ type: "thinking", thinking, signature: "" }]
      return message([...thoughts, { type: "text", text: content }])
    },
  }
}

const stopOf = (end: Finished): string =>
  end.reason !== "stop" ? "max_tokens" : typeof end.stopReason === "string" ? "stop_sequence" : "end_turn"

const sequenceOf = ({ stopReason }: Finished): string | null => (typeof stopReason === "string" ? stopReason : null)

const usageOf = (count: UsageCount) => {
  const { prompt_tokens, completion_tokens, prompt_tokens_details } = count.usage
  const { cached_tokens: cached } = prompt_tokens_details
  // Here the input is what was not found in the cache.
  return {
    input_tokens: prompt_tokens - cached,
    cache_creation_input_tokens: 0,
    cache_read_input_tokens: cached,
    output_tokens: completion_tokens,
  }
}
