import type { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect, Random } from "effect"
import { UsageError } from "../cli/UsageError.ts"

/** A long text with one sentence hidden in it, and a question about that sentence at its end. */
export interface DemoPrompt {
  readonly tokens: Int32Array
  /** The hidden sentence, and the tokens that it is. */
  readonly needle: string
  readonly needleStart: number
  readonly needleEnd: number
  readonly question: string
  /** What a correct answer begins with. */
  readonly expected: string
}

/**
 * A prompt of exactly `length` tokens. The seed decides which part of the haystack is shown, what is hidden and where:
 * between a fifth and four fifths of the text, so that it is not among the rows that are always kept.
 *
 * Text, sentence and question are encoded each on its own, as in the model's training. Fails with UsageError where the
 * haystack is too short.
 */
export const makeDemoPrompt = Effect.fnUntraced(function* (
  tokenizer: Tokenizer["Service"],
  haystack: string,
  length: number,
  seed: number,
) {
  const encode = (text: string) => tokenizer.encode(text, { addSpecialTokens: false })
  const words = [...new Set(haystack.match(/\b[a-z]{5,9}\b/g) ?? [])]
  if (words.length < 2)
    return yield* new UsageError({ message: "the demo's text has no words to name the secret after" })
  const draw = Effect.all({
    first: Random.choice(words),
    second: Random.choice(words),
    number: Random.nextIntBetween(1_000_000, 9_999_999),
    place: Random.next,
    start: Random.next,
  })
  const drawn = yield* draw.pipe(Random.withSeed(`uniprefill demo ${seed}`))
  const secret = `${drawn.first} ${drawn.second}`
  const needle = `The special magic number for ${secret} is ${drawn.number}.`
  const question = `What is the special magic number for ${secret}?`
  const all = yield* encode(haystack)
  const hidden = yield* encode(` ${needle}`)
  const asked = yield* encode(`\nQuestion: ${question}\nAnswer:`)
  const body = length - hidden.length - asked.length
  if (body > all.length) {
    const most = all.length + hidden.length + asked.length
    return yield* new UsageError({ message: `--tokens: the demo's text makes ${most} tokens, got ${length}` })
  }
  const text = all.subarray(Math.floor(drawn.start * (all.length - body + 1))).subarray(0, body)
  const needleStart = Math.floor(body * (0.2 + 0.6 * drawn.place))
  const tokens = new Int32Array(length)
  tokens.set(text.subarray(0, needleStart))
  tokens.set(hidden, needleStart)
  tokens.set(text.subarray(needleStart), needleStart + hidden.length)
  tokens.set(asked, body + hidden.length)
  return {
    tokens,
    needle,
    needleStart,
    needleEnd: needleStart + hidden.length,
    question,
    expected: String(drawn.number),
  } satisfies DemoPrompt
})
