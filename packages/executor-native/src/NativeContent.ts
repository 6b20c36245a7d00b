import type { RequestContent } from "@uniprefill/executor/contract/Executor"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { keepBitmaps, type KeepProfile } from "./KeepProfile.ts"
import type { NativeContent } from "./NativeLibrary.ts"

/** A request's content in the addon's types. A keep profile decides the selections of a request that drops and has none yet. */
export const toNativeContent = (
  content: RequestContent,
  schedule: DropSchedule,
  profile: KeepProfile | null,
): NativeContent => {
  const { sampling } = content
  const profiled = profile !== null && content.pQ32 !== null && content.bitmaps.length === 0
  return {
    tokens: content.tokens,
    promptLength: content.promptLength,
    dropLayers: schedule.dropLayers.length,
    pQ32: content.pQ32 === null ? null : BigUint64Array.from(content.pQ32),
    bitmaps: profiled ? keepBitmaps(profile, content.promptLength, schedule) : content.bitmaps,
    scoreDecided: profiled,
    returnLogits: content.returnLogits,
    promptLogprobs: content.promptLogprobs,
    sampling: {
      temperature: sampling.temperature,
      topK: sampling.topK,
      topP: sampling.topP,
      minP: sampling.minP,
      frequencyPenalty: sampling.frequencyPenalty,
      presencePenalty: sampling.presencePenalty,
      repetitionPenalty: sampling.repetitionPenalty,
      seed: BigInt.asUintN(64, sampling.seed),
      minTokens: sampling.minTokens,
      logprobs: sampling.logprobs,
      stopTokens: Int32Array.from(sampling.stopTokenIds),
      biasTokens: Int32Array.from(sampling.logitBias, ([token]) => token),
      biasValues: Float32Array.from(sampling.logitBias, ([, bias]) => bias),
      allowedTokens: sampling.allowedTokenIds === null ? null : Int32Array.from(sampling.allowedTokenIds),
    },
  }
}
