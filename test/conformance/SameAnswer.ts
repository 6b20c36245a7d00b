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

/** The same, of an answer that may have been aborted: up to there. */
export const sameUpToAbort = (answer: LoopAnswer, alone: LoopAnswer): void => {
  if (answer.reason === "abort") expect(answer.tokens).toEqual(alone.tokens.slice(0, answer.tokens.length))
  else same(answer, alone)
}
