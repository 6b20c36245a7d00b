import { Engine } from "@uniprefill/engine/Engine"
import { Effect } from "effect"
import { type Answer, ask } from "./Asking.ts"
import { klOf, pathKl } from "./Divergence.ts"

/** A prompt with what its answer has to be. */
export interface Case {
  readonly id: string
  readonly task: string
  readonly prompt: Int32Array
  /** Where what the answer rests on begins, a share of the prompt; null where it is not known. */
  readonly depth: number | null
  readonly isRight: (answer: string) => boolean
}

/** One way to answer all prompts. */
export interface Variant {
  readonly name: string
  /** p of every drop layer is at least this: 1 is dense, 0 the schedule as it is. */
  readonly minP: number
}

export const denseVariant: Variant = { name: "dense", minP: 1 }

export interface Score {
  readonly text: string
  readonly isRight: boolean
  /** Rows kept in each segment, a share of the prompt. */
  readonly kept: ReadonlyArray<number>
  /** Divergence from dense, nats: of the first token, and of the whole answer. */
  readonly firstKl: number
  readonly answerKl: number
  /** Null where an earlier variant had computed the first layers already. */
  readonly ttftMicros: number | null
}

/** A case as every variant answered it, dense first. */
export interface Outcome {
  readonly task: string
  readonly length: number
  readonly depth: number | null
  readonly scores: ReadonlyArray<Score>
}

/** Alternatives that are compared at each place. */
const alternatives = 64

/**
 * Answers a case by every variant. What a variant computes up to the first drop layer is the same for all, and the prefix cache keeps
 * it: dense is p = 1, which selects like the others and keeps everything. `first` is the variant that finds nothing in the cache and
 * whose time to the first token therefore counts.
 */
export const answerCase = Effect.fnUntraced(function* (
  { id, task, prompt, depth, isRight }: Case,
  variants: ReadonlyArray<Variant>,
  first: number,
  maxTokens: number,
) {
  const { model } = yield* Engine
  const logprobs = Math.min(alternatives, model.spec.vocabSize)
  const answers = new Array<Answer>(variants.length)
  for (let i = 0; i < variants.length; i++) {
    const at = (first + i) % variants.length
    const { name, minP } = variants[at]!
    const requestId = `${id}-${name}`
    answers[at] = yield* ask({ requestId, prompt, drop: true, minP, maxTokens, logprobs })
  }
  const dense = answers[0]!
  return {
    task,
    length: prompt.length,
    depth,
    scores: answers.map((answer) => ({
      text: answer.text,
      isRight: isRight(answer.text),
      kept: answer.kept,
      firstKl: klOf(dense.likely[0] ?? [], answer.likely[0] ?? []),
      answerKl: pathKl(dense, answer),
      ttftMicros: answer.cachedTokens === 0 ? answer.ttftMicros : null,
    })),
  } satisfies Outcome
})
