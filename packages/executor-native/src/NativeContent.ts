import type { RequestContent } from "@uniprefill/executor/contract/Executor"
import type { NativeRequestContent } from "./NativeLibrary.ts"

/** A content in the addon's types. */
export const toNativeContent = (content: RequestContent, dropLayers: number): NativeRequestContent => {
  const { sampling } = content
  return {
    tokens: content.tokens,
    promptLength: content.promptLength,
    dropLayers,
    pQ32: content.pQ32 === null ? null : BigUint64Array.from(content.pQ32),
    bitmaps: content.bitmaps,
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
