import { Random } from "@uniprefill/units/Random"

export interface FuzzedRequest {
  readonly path: string
  readonly body: string
}

const paths = [
  "/v1/completions",
  "/v1/completions",
  "/v1/completions",
  "/v1/chat/completions",
  "/v1/chat/completions",
  "/v1/responses",
  "/v1/messages",
  "/tokenize",
  "/detokenize",
  "/v1/completions/render",
]

/** Numbers as they are written: what becomes 0, an infinity, something else or nothing as a float, an int32, an int64. */
const numbers = [
  ..."0 -0 1 -1 2 0.5 1e-46 1.4e-45 1e-38 1e-5 0.99999999999 1.0000001 3.5e38 1e39 1e308 1e309 -1e309 1e-400".split(
    " ",
  ),
  ..."255 256 4095 4096 4097 32767 65536 2147483647 2147483648 -2147483648 -2147483649 4294967296".split(" "),
  ..."9007199254740991 9007199254740993 9223372036854775807 -9223372036854775808 18446744073709551616 1e19".split(" "),
]

const strings = [
  '""',
  '"x"',
  '"\\ud800"',
  '"a\\udc00b"',
  '"🦔"',
  '"\\u0000"',
  '"needle-10m-deep"',
  '"<|eos|>"',
  '"__proto__"',
  '"{{ 7*7 }}"',
  '"\\n"',
  '"user"',
]

const others = [
  "null",
  "true",
  "false",
  "[]",
  "{}",
  "[[]]",
  "[null]",
  '[""]',
  '{"":{}}',
  '{"__proto__":{"a":1}}',
  '{"a":[1,{"b":[]}]}',
]

const numberFields =
  "temperature top_p top_k min_p frequency_penalty presence_penalty repetition_penalty n seed min_tokens logprobs top_logprobs priority ttft_slo_ms best_of max_tokens max_completion_tokens max_output_tokens".split(
    " ",
  )

const otherFields =
  "stop stop_token_ids allowed_token_ids logit_bias stream stream_options echo ignore_eos include_stop_str_in_output skip_special_tokens add_special_tokens cache_salt request_id user uniprefill model tools tool_choice response_format chat_template_kwargs add_generation_prompt continue_final_message documents reasoning_effort suffix metadata instructions system stop_sequences thinking return_token_strs tokens prompt messages input".split(
    " ",
  )

/** How long an answer may be: never long, or the rest would take long too. */
const limitFields: ReadonlySet<string> = new Set(["max_tokens", "max_completion_tokens", "max_output_tokens"])

const limits = [
  "0",
  "1",
  "2",
  "-1",
  "0.5",
  "2147483647",
  "2147483648",
  "9007199254740993",
  "1e309",
  '"x"',
  "[]",
  "true",
]

/** Requests that are nearly right, biased to what is computed with later; the same again with the same seed. */
export class Fuzz {
  readonly #random: Random

  constructor(seed: number) {
    this.#random = new Random(seed, "fuzz")
  }

  next(): FuzzedRequest {
    const path = this.#of(paths)
    const fields = this.#base(path)
    const changes = this.#random.below(4)
    for (let i = 0; i < changes; i++) {
      const isNumber = this.#random.unit() < 0.5
      const name = this.#of(isNumber ? numberFields : otherFields)
      fields.set(name, limitFields.has(name) ? this.#of(limits) : this.#value(isNumber))
    }
    const text = `{${[...fields].map(([name, value]) => `"${name}":${value}`).join(",")}}`
    return { path, body: this.#random.unit() < 0.06 ? this.#broken(text) : text }
  }

  #of<A>(list: ReadonlyArray<A>): A {
    return list[this.#random.below(list.length)]!
  }

  /** Something that the path takes, and takes little time. */
  #base(path: string): Map<string, string> {
    const messages = '[{"role":"user","content":"Who?"}]'
    const own: Record<string, ReadonlyArray<readonly [string, string]>> = {
      "/v1/chat/completions": [["messages", messages]],
      "/v1/responses": [["input", '"Who?"']],
      "/v1/messages": [["messages", messages]],
      "/detokenize": [["tokens", "[5,6,7]"]],
    }
    const limit = path === "/v1/responses" ? "max_output_tokens" : "max_tokens"
    return new Map([...(own[path] ?? [["prompt", this.#prompt()] as const]), [limit, "1"]])
  }

  #prompt(): string {
    return this.#of(['"Who?"', '["a","b"]', "[5,6,7]", "[[5],[6,7]]", '"\\ud83e"', "[4095]", "[4096]", "[-1]"])
  }

  #value(isNumber: boolean): string {
    const kind = this.#random.unit()
    if (isNumber) return kind < 0.8 ? this.#of(numbers) : kind < 0.9 ? this.#of(strings) : this.#of(others)
    if (kind < 0.3) return this.#list()
    if (kind < 0.4) return this.#biases()
    return this.#of(kind < 0.6 ? strings : kind < 0.8 ? others : numbers)
  }

  /** Lists of ids at the edges of the vocabulary, with duplicates, now and then as long as it is and longer. */
  #list(): string {
    const length = this.#of([1, 2, 3, 16, 17, 256, 257, 4096, 4097])
    const most = this.#of([3, 4095, 4096, 70_000])
    return `[${Array.from({ length }, () => (this.#random.unit() < 0.002 ? this.#of(numbers) : this.#random.between(0, most))).join(",")}]`
  }

  #biases(): string {
    const length = this.#of([1, 2, 1024, 1025])
    return `{${Array.from({ length }, () => `"${this.#random.below(4200)}":${this.#of(["1", "-100", "100", "1e-46", "101"])}`).join(",")}}`
  }

  #broken(text: string): string {
    const at = this.#random.below(text.length)
    return this.#of([
      text.slice(0, at),
      `${text.slice(0, at)}\u0000${text.slice(at)}`,
      text + text,
      "[".repeat(this.#random.between(1, 2999)),
      `{"a":`.repeat(this.#random.between(1, 2999)),
      `[${text}]`,
    ])
  }
}
