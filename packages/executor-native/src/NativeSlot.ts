import type { SlotContent } from "@uniprefill/executor/Executor"
import type { NativeSlotContent } from "./NativeLibrary.ts"

/** A slot's content in the addon's types. */
export const toNativeSlot = (content: SlotContent, dropLayers: number): NativeSlotContent => {
  const { sampling } = content
  return {
    slot: content.slot,
    tokens: content.tokens,
    promptLength: content.promptLength,
    dropLayers,
    pQ32: content.pQ32 === null ? null : BigUint64Array.from(content.pQ32),
    bitmaps: content.bitmaps,
    returnLogits: content.returnLogits,
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
