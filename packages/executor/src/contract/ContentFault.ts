import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { ExecutorInfo, SamplingParameters, RequestContent } from "./Executor.ts"
import { bitmapFault } from "./SlotBooks.ts"

/** What is wrong with a content, naming field and numbers, or null. */
export const contentFault = (
  content: RequestContent,
  info: ExecutorInfo,
  vocab: number,
  schedule: DropSchedule,
): string | null => {
  const { tokens, promptLength, pQ32, sampling, promptLogprobs } = content
  if (!(promptLength >= 1 && promptLength <= tokens.length)) {
    return `promptLength ${promptLength} with ${tokens.length} tokens`
  }
  if (tokens.length > info.maxTokens) return `${tokens.length} tokens, at most ${info.maxTokens}`
  const outside = tokens.find((token) => token < 0 || token >= vocab)
  if (outside !== undefined) return `token ${outside} of ${vocab}`
  if (pQ32 !== null) {
    const selections = schedule.dropLayers.length
    if (pQ32.length !== selections) return `pQ32 has ${pQ32.length} values, the schedule selects ${selections} times`
    const wrong = pQ32.find((p) => p < 0n || p > 1n << 32n)
    if (wrong !== undefined) return `pQ32 ${wrong} is not in 0 to ${1n << 32n}`
  }
  if (!Number.isInteger(promptLogprobs) || promptLogprobs < -1 || promptLogprobs > vocab) {
    return `promptLogprobs ${promptLogprobs} is not in -1 to ${vocab}`
  }
  if (promptLogprobs >= 0 && pQ32 !== null) return `promptLogprobs ${promptLogprobs} in a request that drops`
  return bitmapFault(content, info.layout.segments.length, schedule) ?? samplingFault(sampling, vocab)
}

const samplingFault = (sampling: SamplingParameters, vocab: number): string | null => {
  const { temperature, topK, topP, minP, repetitionPenalty, frequencyPenalty, presencePenalty } = sampling
  if (!(temperature >= 0 && temperature < Infinity)) return `temperature ${temperature} is not ≥ 0`
  if (!Number.isInteger(topK) || topK < 0) return `topK ${topK} is not an integer ≥ 0`
  if (!(topP > 0 && topP <= 1)) return `topP ${topP} is not in (0, 1]`
  if (!(minP >= 0 && minP <= 1)) return `minP ${minP} is not in [0, 1]`
  if (!(repetitionPenalty > 0 && repetitionPenalty < Infinity))
    return `repetitionPenalty ${repetitionPenalty} is not > 0`
  if (!Number.isFinite(frequencyPenalty)) return `frequencyPenalty ${frequencyPenalty} is not finite`
  if (!Number.isFinite(presencePenalty)) return `presencePenalty ${presencePenalty} is not finite`
  if (sampling.allowedTokenIds?.length === 0) return "allowedTokenIds is empty"
  const named = {
    allowedTokenIds: sampling.allowedTokenIds ?? [],
    stopTokenIds: sampling.stopTokenIds,
    logitBias: sampling.logitBias.map(([token]) => token),
  }
  for (const [field, tokens] of Object.entries(named)) {
    const outside = tokens.find((token) => !Number.isInteger(token) || token < 0 || token >= vocab)
    if (outside !== undefined) return `${field} names token ${outside} of ${vocab}`
  }
  return null
}
