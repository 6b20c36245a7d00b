import { Executor, greedy, type RequestContent } from "@uniprefill/executor/contract/Executor"
import { StateOperation, StepPlan } from "@uniprefill/scheduler/StepPlan"
import { Effect } from "effect"

/** What transformers gave for a tiny model. */
export interface Golden {
  readonly tokens: ReadonlyArray<number>
  readonly vocabulary: number
  /** Base64 of f32, [positions × vocabulary]. */
  readonly float32: string
  /** The same of a run in bf16, as words of bf16. */
  readonly bf16: string
}

const contentOf = (tokens: Int32Array): RequestContent => ({
  tokens,
  promptLength: tokens.length,
  pQ32: null,
  bitmaps: [],
  sampling: greedy,
  returnLogits: true,
  promptLogprobs: -1,
})

/** Logits behind every token of `tokens` from number `prefilled − 1` on. */
const logitsOf = Effect.fnUntraced(function* (tokens: ReadonlyArray<number>, prefilled: number) {
  const executor = yield* Executor
  const { layout } = executor.info
  const rows: Array<Float32Array> = []
  const plan = new StepPlan()
  const run = Effect.gen(function* () {
    yield* executor.enqueue(plan)
    const { logits } = yield* executor.nextResult
    rows.push(new Float32Array(logits.data.slice(2, logits.length).buffer))
  })
  yield* executor.putContent(1, contentOf(Int32Array.from(tokens.slice(0, prefilled))))
  plan.clear(1)
  plan.opens.push2(0, 1)
  let slab = 0
  for (const [table, { slabsPerPage }] of layout.tables.entries()) {
    const count = Math.ceil(tokens.length / layout.pageSize) * slabsPerPage
    for (let i = 0; i < count; i++) plan.grants.push3(0, table, slab++)
  }
  if (layout.stateSlotBytes > 0) plan.states.push3(0, StateOperation.zero, 0)
  plan.items.push3(0, 0, prefilled)
  plan.items.push2(0, layout.segments.length - 1)
  plan.samples.push2(0, 0)
  yield* run
  for (let i = prefilled; i < tokens.length; i++) {
    plan.clear(i - prefilled + 2)
    // It leaves the decode set and joins again with the text's own token.
    if (i > prefilled) plan.leaves.push(0)
    plan.joins.push2(0, tokens[i]!)
    yield* run
  }
  return rows
})

/** ‖a − b‖ / ‖b‖ */
const distance = (a: Float32Array, b: Float32Array): number => {
  let difference = 0
  let norm = 0
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2
    norm += b[i]! ** 2
  }
  return Math.sqrt(difference / norm)
}

/** Relative errors of the executor's logits, prefill of the first half and then token by token, against a golden's. */
export const errorsAgainst = Effect.fnUntraced(function* ({ tokens, vocabulary, float32 }: Golden) {
  const expected = new Float32Array(new Uint8Array(Buffer.from(float32, "base64")).buffer)
  const prefilled = tokens.length / 2
  const rows = yield* logitsOf(tokens, prefilled)
  return rows.map((row, i) => {
    const position = prefilled - 1 + i
    return distance(row, expected.subarray(position * vocabulary, (position + 1) * vocabulary))
  })
})

/** Relative errors of transformers' own bf16 run at the same positions. */
export const roundingErrors = ({ tokens, vocabulary, float32, bf16 }: Golden): ReadonlyArray<number> => {
  const exact = new Float32Array(new Uint8Array(Buffer.from(float32, "base64")).buffer)
  const words = new Uint16Array(new Uint8Array(Buffer.from(bf16, "base64")).buffer)
  const rounded = new Float32Array(Uint32Array.from(words, (word) => word << 16).buffer)
  const errors: Array<number> = []
  for (let position = tokens.length / 2 - 1; position < tokens.length; position++) {
    const row = [position * vocabulary, (position + 1) * vocabulary] as const
    errors.push(distance(rounded.subarray(...row), exact.subarray(...row)))
  }
  return errors
}
