import { InvalidRequest } from "./InvalidRequest.ts"

/**
 * Fields that would change the answer and that this server does not implement, each with the values that ask for
 * nothing. Any other value is refused: ignoring it would answer another question than the one asked.
 */
const neutral: Readonly<Record<string, ReadonlyArray<unknown>>> = {
  suffix: [""],
  response_format: [],
  tools: [],
  tool_choice: ["none", "auto"],
  functions: [],
  function_call: ["none", "auto"],
  structured_outputs: [],
  guided_json: [],
  guided_regex: [],
  guided_choice: [],
  guided_grammar: [],
  use_beam_search: [false],
  length_penalty: [1],
  early_stopping: [false],
  prompt_logprobs: [],
  prompt_embeds: [],
  truncate_prompt_tokens: [],
  bad_words: [],
  logits_processors: [],
  logits_processors_args: [],
  return_token_ids: [false],
  return_tokens_as_token_ids: [false],
}

const asksForNothing = (name: string, value: unknown): boolean => {
  if (value === null || value === undefined || neutral[name]!.includes(value)) return true
  if (Array.isArray(value)) return value.length === 0
  return name === "response_format" && typeof value === "object" && (value as { type?: unknown }).type === "text"
}

export const unsupportedFields: ReadonlyArray<string> = Object.keys(neutral)

/** The first field of `body` that asks for something unsupported. */
export const findUnsupported = (body: object): InvalidRequest | undefined => {
  for (const [name, value] of Object.entries(body)) {
    if (Object.hasOwn(neutral, name) && !asksForNothing(name, value)) {
      return new InvalidRequest({ param: name, message: `${name} is not supported by this server` })
    }
  }
  return undefined
}
