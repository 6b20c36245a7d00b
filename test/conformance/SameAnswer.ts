import { isDeepStrictEqual } from "node:util"
import type { LoopAnswer } from "./LoopServer.ts"

/** Expects two answers to be one, bit by bit: tokens, selections and the logits behind every token. */
export const same = (answer: LoopAnswer, alone: LoopAnswer): void => {
  equal("reason", answer.reason, alone.reason)
  equal("tokens", answer.tokens, alone.tokens)
  equal("bitmaps", answer.bitmaps, alone.bitmaps)
  equal("kept", answer.kept, alone.kept)
  equal("logits", answer.logits, alone.logits)
}

/** The same, of an answer that may have been aborted: up to there. */
export const sameUpToAbort = (answer: LoopAnswer, alone: LoopAnswer): void => {
  if (answer.reason === "abort") equal("tokens", answer.tokens, alone.tokens.slice(0, answer.tokens.length))
  else same(answer, alone)
}

/** Throws `what: …` where two values are not equal all through. */
export const equal = (what: string, actual: unknown, expected: unknown): void => {
  if (isDeepStrictEqual(actual, expected)) return
  const shown = (value: unknown) => JSON.stringify(value ?? null).slice(0, 200)
  throw new Error(`${what}: ${shown(actual)} instead of ${shown(expected)}`)
}
