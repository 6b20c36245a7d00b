import { randomUUID } from "node:crypto"
import type { ResponsesRequest } from "@uniprefill/openai/ResponsesRequest"
import { type AnswerFormat, sse } from "../answers/AnswerFormat.ts"
import { type AnswerPlan, dropReport, type Finished } from "../answers/AnswerPlan.ts"
import { UsageCount } from "../answers/UsageCount.ts"
import { WholeText } from "../chat/ChatAnswer.ts"
import { type ReasoningMarks, ReasoningSplit } from "../chat/ReasoningSplit.ts"

/** The engine's events as a response: its thoughts, if any, as one item, what it says as another. */
export const responseFormat = (
  plan: AnswerPlan,
  request: ResponsesRequest,
  reasoning: ReasoningMarks | null,
): AnswerFormat => {
  const usage = new UsageCount(plan)
  const [choice] = plan.choices
  const { sampling } = choice!.request
  const messageId = `msg_${randomUUID().replaceAll("-", "")}`
  const reasoningId = `rs_${randomUUID().replaceAll("-", "")}`

  const textPart = (text: string) => ({ type: "output_text", text, annotations: [], logprobs: [] })
  const messageItem = (status: Status, content: ReadonlyArray<object>) => ({
    id: messageId,
    type: "message",
    role: "assistant",
    status,
    content,
  })
  const reasoningItem = (text: string | null) => ({
    id: reasoningId,
    type: "reasoning",
    summary: [],
    content: text === null ? [] : [{ type: "reasoning_text", text }],
  })
  const response = (status: Status | "failed", output: ReadonlyArray<object>, error: object | null = null) => ({
    id: plan.id,
    object: "response",
    created_at: plan.createdSeconds,
    status,
    error,
    incomplete_details: status === "incomplete" ? { reason: "max_output_tokens" } : null,
    instructions: request.instructions ?? null,
    max_output_tokens: request.max_output_tokens ?? null,
    metadata: request.metadata ?? {},
    model: plan.model,
    output,
    parallel_tool_calls: true,
    previous_response_id: null,
    reasoning: { effort: request.reasoning?.effort ?? null, summary: null },
    service_tier: "default",
    store: false,
    temperature: sampling.temperature,
    text: { format: { type: "text" } },
    tool_choice: "auto",
    tools: [],
    top_p: sampling.topP,
    truncation: "disabled",
    usage: status === "in_progress" ? null : usageOf(usage),
    user: request.user ?? null,
    ...dropReport(plan, end === null ? [] : [end]),
  })
  const outputOf = (status: Status, { reasoning: thoughts, content }: { reasoning: string; content: string }) => [
    ...(thoughts === "" ? [] : [reasoningItem(thoughts)]),
    messageItem(status, [textPart(content)]),
  ]

  let end: Finished | null = null
  const split = new ReasoningSplit(reasoning)
  const whole = new WholeText(split)
  let sequence = 0
  const event = (type: string, fields: object) => sse({ type, sequence_number: sequence++, ...fields }, type)
  const text = { reasoning: "", content: "" }
  let item: "none" | "reasoning" | "message" = "none"
  /** Its place among the items. */
  let outputIndex = -1

  const openReasoning = (): string => {
    item = "reasoning"
    outputIndex++
    return event("response.output_item.added", { output_index: outputIndex, item: reasoningItem(null) })
  }
  const closeReasoning = (): string => {
    const at = { item_id: reasoningId, output_index: outputIndex, content_index: 0 }
    return (
      event("response.reasoning_text.done", { ...at, text: text.reasoning }) +
      event("response.output_item.done", { output_index: outputIndex, item: reasoningItem(text.reasoning) })
    )
  }
  const openMessage = (): string => {
    const before = item === "reasoning" ? closeReasoning() : ""
    item = "message"
    outputIndex++
    const at = { item_id: messageId, output_index: outputIndex, content_index: 0 }
    return (
      before +
      event("response.output_item.added", { output_index: outputIndex, item: messageItem("in_progress", []) }) +
      event("response.content_part.added", { ...at, part: textPart("") })
    )
  }
  const closeMessage = (status: Status): string => {
    const at = { item_id: messageId, output_index: outputIndex, content_index: 0 }
    return (
      event("response.output_text.done", { ...at, text: text.content, logprobs: [] }) +
      event("response.content_part.done", { ...at, part: textPart(text.content) }) +
      event("response.output_item.done", {
        output_index: outputIndex,
        item: messageItem(status, [textPart(text.content)]),
      })
    )
  }
  const say = (part: { readonly reasoning: string; readonly content: string }): string => {
    let out = ""
    if (part.reasoning !== "") {
      if (item === "none") out += openReasoning()
      text.reasoning += part.reasoning
      const at = { item_id: reasoningId, output_index: outputIndex, content_index: 0 }
      out += event("response.reasoning_text.delta", { ...at, delta: part.reasoning })
    }
    if (part.content !== "") {
      if (item !== "message") out += openMessage()
      text.content += part.content
      const at = { item_id: messageId, output_index: outputIndex, content_index: 0 }
      out += event("response.output_text.delta", { ...at, delta: part.content, logprobs: [] })
    }
    return out
  }

  return {
    begin: () =>
      event("response.created", { response: response("in_progress", []) }) +
      event("response.in_progress", { response: response("in_progress", []) }),
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
      const status = statusOf(end!)
      let out = say(split.flush())
      if (item !== "message") out += openMessage()
      out += closeMessage(status)
      const type = status === "completed" ? "response.completed" : "response.incomplete"
      return out + event(type, { response: response(status, outputOf(status, text)) })
    },
    failed: ({ message }) => {
      const error = { code: "server_error", message }
      return event("response.failed", { response: response("failed", outputOf("incomplete", text), error) })
    },
    add: (_, generated) => {
      usage.add(choice!, generated)
      whole.add(generated)
      if (generated._tag === "Finished") end = generated
    },
    whole: () => {
      const status = statusOf(end!)
      return response(status, outputOf(status, whole))
    },
  }
}

type Status = "in_progress" | "completed" | "incomplete"

const statusOf = ({ reason }: Finished): Status => (reason === "stop" ? "completed" : "incomplete")

const usageOf = (count: UsageCount) => {
  const { prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details } = count.usage
  return {
    input_tokens: prompt_tokens,
    input_tokens_details: prompt_tokens_details,
    output_tokens: completion_tokens,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens,
  }
}
