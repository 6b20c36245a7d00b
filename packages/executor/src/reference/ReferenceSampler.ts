import type { SamplingParameters } from "../contract/Executor.ts"
import { uniformNumbers } from "./ReferenceModel.ts"

export interface Sample {
  readonly token: number
  /** `[token, logprob]`: the sampled token, then the most likely ones; empty when not asked for. */
  readonly logprobs: ReadonlyArray<readonly [token: number, logprob: number]>
  readonly nonFinite: boolean
}

/**
 * Draws output token number `output.length` from its logits, in the order that SamplingParameters states. The draw
 * depends on the seed and that number alone.
 */
export const sample = (
  logits: Float64Array,
  parameters: SamplingParameters,
  prompt: ArrayLike<number>,
  output: ArrayLike<number>,
): Sample => {
  if (!logits.every(Number.isFinite)) return { token: 0, logprobs: [], nonFinite: true }
  const adjusted = adjustedLogits(logits, parameters, prompt, output)
  const token = parameters.temperature === 0 ? largest(adjusted) : draw(adjusted, parameters, output.length)
  return { token, logprobs: logprobsOf(logits, token, parameters.logprobs), nonFinite: false }
}

/** What a token is chosen from: the logits with bias, masks and penalties. */
export const adjustedLogits = (
  logits: Float64Array,
  parameters: SamplingParameters,
  prompt: ArrayLike<number>,
  output: ArrayLike<number>,
): Float64Array => penalise(mask(logits, parameters, output.length), parameters, prompt, output)

const mask = (logits: Float64Array, parameters: SamplingParameters, outputs: number): Float64Array => {
  const result = logits.slice()
  for (const [token, bias] of parameters.logitBias) result[token]! += bias
  if (parameters.allowedTokenIds !== null) {
    const allowed = new Set(parameters.allowedTokenIds)
    for (let token = 0; token < result.length; token++) if (!allowed.has(token)) result[token] = -Infinity
  }
  if (outputs < parameters.minTokens) {
    const others = result.some((logit, token) => logit > -Infinity && !parameters.stopTokenIds.includes(token))
    if (others) for (const token of parameters.stopTokenIds) result[token] = -Infinity
  }
  return result
}

/** Repetition counts prompt and output, frequency and presence the output alone. */
const penalise = (
  logits: Float64Array,
  { repetitionPenalty, frequencyPenalty, presencePenalty }: SamplingParameters,
  prompt: ArrayLike<number>,
  output: ArrayLike<number>,
): Float64Array => {
  const counts = new Map<number, number>()
  for (const token of Array.from(output)) counts.set(token, (counts.get(token) ?? 0) + 1)
  if (repetitionPenalty !== 1) {
    for (const token of new Set([...Array.from(prompt), ...counts.keys()])) {
      const logit = logits[token]!
      logits[token] = logit > 0 ? logit / repetitionPenalty : logit * repetitionPenalty
    }
  }
  for (const [token, count] of counts) logits[token]! -= frequencyPenalty * count + presencePenalty
  return logits
}

const largest = (logits: Float64Array): number => {
  let best = 0
  for (let token = 1; token < logits.length; token++) if (logits[token]! > logits[best]!) best = token
  return best
}

const draw = (logits: Float64Array, parameters: SamplingParameters, index: number): number => {
  const { temperature, topK, topP, minP, seed } = parameters
  let entries = softmax(logits.map((logit) => logit / temperature))
    .map((share, token) => ({ token, share }))
    .sort((a, b) => b.share - a.share || a.token - b.token)
  if (topK > 0) entries = entries.slice(0, topK)
  entries = entries.filter(({ share }) => share > 0 && share >= minP * entries[0]!.share)
  const total = entries.reduce((sum, { share }) => sum + share, 0)
  let before = 0
  entries = entries.filter(({ share }) => {
    const keep = before <= 0 || before < topP * total
    before += share
    return keep
  })
  const fold = Number(BigInt.asUintN(32, seed ^ (seed >> 32n)))
  let target =
    uniformNumbers(fold ^ Math.imul(index + 1, 0x85ebca6b))() * entries.reduce((sum, { share }) => sum + share, 0)
  for (const { token, share } of entries) {
    target -= share
    if (target < 0) return token
  }
  return entries[entries.length - 1]!.token
}

const softmax = (logits: Float64Array): Array<number> => {
  const top = Math.max(...logits)
  const powers = Array.from(logits, (logit) => Math.exp(logit - top))
  const sum = powers.reduce((a, b) => a + b, 0)
  return powers.map((power) => power / sum)
}

/** Of one token first, then of the `count` most likely ones; none where `count` is below 0. */
export const logprobsOf = (logits: Float64Array, token: number, count: number): Sample["logprobs"] => {
  if (count < 0) return []
  const logprobs = softmax(logits).map(Math.log)
  const order = logprobs.map((_, id) => id).sort((a, b) => logprobs[b]! - logprobs[a]! || a - b)
  return [token, ...order.slice(0, count)].map((id) => [id, logprobs[id]!] as const)
}
