import { InvalidRequest } from "./InvalidRequest.ts"

/**
 * Fields that would change the answer and that this server does not implement, each with the values that ask for
 * nothing. Any other value is refused: ignoring it would answer another question than the one asked.
 */
const neutral: Readonly<Record<string, ReadonlyArray<unknown>>> = {
  suffix: [""],
  // What the answer may look like.
  response_format: [],
  structured_outputs: [],
  guided_json: [],
  guided_regex: [],
  guided_choice: [],
  guided_grammar: [],
  guided_decoding_backend: [""],
  grammar: [""],
  json_schema: [],
  regex: [""],
  ebnf: [""],
  bad_words: [],
  // Tools.
  tools: [],
  tool_choice: ["none", "auto"],
  functions: [],
  function_call: ["none", "auto"],
  web_search_options: [],
  // Other ways to search and to sample.
  use_beam_search: [false],
  length_penalty: [1],
  early_stopping: [false],
  no_repeat_ngram_size: [0],
  typical_p: [1],
  top_a: [0],
  tfs: [1],
  tfs_z: [1],
  mirostat: [0],
  mirostat_mode: [0],
  xtc_probability: [0],
  dry_multiplier: [0],
  smoothing_factor: [0],
  dynatemp_range: [0],
  epsilon_cutoff: [0],
  eta_cutoff: [0],
  logits_processors: [],
  logits_processors_args: [],
  thinking_token_budget: [],
  // What goes in.
  prompt_embeds: [],
  truncate_prompt_tokens: [],
  truncation: ["disabled"],
  mm_processor_kwargs: [],
  media_io_kwargs: [],
  chat_template: [],
  modalities: [],
  audio: [],
  lora_path: [],
  lora_request: [],
  kv_transfer_params: [],
  vllm_xargs: [],
  // What comes out.
  prompt_logprobs: [],
  return_token_ids: [false],
  return_tokens_as_token_ids: [false],
  spaces_between_special_tokens: [true],
  include_reasoning: [true],
  return_hidden_states: [false],
}

const asksForNothing = (name: string, value: unknown): boolean => {
  if (value === null || value === undefined || neutral[name]!.includes(value)) return true
  if (Array.isArray(value)) {
    return value.length === 0 || (name === "modalities" && value.length === 1 && value[0] === "text")
  }
  if (typeof value !== "object") return false
  if (name === "response_format") return (value as { type?: unknown }).type === "text"
  return Object.keys(value).length === 0
}

/** Words for those that people miss most. */
const explained: Readonly<Record<string, string>> = {
  response_format: "response_format is not supported by this server: answers are plain text",
  tools: "tools are not supported by this server",
  tool_choice: "tool_choice is not supported by this server: there are no tools",
  chat_template: "chat_template is the operator's to choose, with --chat-template; a request cannot bring its own",
}

/** The first field of `body` that asks for something unsupported. */
export const findUnsupported = (body: object): InvalidRequest | undefined => {
  for (const [name, value] of Object.entries(body)) {
    if (Object.hasOwn(neutral, name) && !asksForNothing(name, value)) {
      return new InvalidRequest({ param: name, message: explained[name] ?? `${name} is not supported by this server` })
    }
  }
  return undefined
}

/** Fields that are accepted without effect: they are about storing, billing or speed, and change no answer. */
const withoutEffect: ReadonlyArray<string> = [
  "metadata",
  "store",
  "service_tier",
  "safety_identifier",
  "prompt_cache_key",
  "prompt_cache_retention",
  "parallel_tool_calls",
  "prediction",
]

/** Whether an operator should hear of a field that has no effect: not of those that are there for nothing everywhere. */
export const isWorthALine = (field: string): boolean => !Object.hasOwn(neutral, field) && !withoutEffect.includes(field)
