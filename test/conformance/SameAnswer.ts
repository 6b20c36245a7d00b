import { expect } from "vitest"
import type { LoopAnswer } from "./LoopServer.ts"

/** Expects two answers to be one, bit by bit: tokens, selections and the logits behind every token. */
export const same = (answer: LoopAnswer, alone: LoopAnswer): void => {
  expect(answer.reason).toBe(alone.reason)
  expect(answer.tokens).toEqual(alone.tokens)
  expect(answer.bitmaps).toEqual(alone.bitmaps)
  expect(answer.kept).toEqual(alone.kept)
  expect(answer.logits).toEqual(alone.logits)
}
