import { defaultChunkRows as chunkRows } from "../Prefill.ts"
import type { Policy, TokenBudget } from "../Policy.ts"

/**
 * First come, first served, where a step is bounded by its rows and not by its predicted time: the usual way, as a
 * baseline. Fails with RangeError when a full batch of decodes would leave no room for a chunk of prefill.
 */
export const tokenBudget = ({ maxNumBatchedTokens, maxNumSeqs }: TokenBudget): Policy => {
  if (!Number.isSafeInteger(maxNumSeqs) || maxNumSeqs < 1) {
    throw new RangeError(`token-budget: maxNumSeqs must be an integer ≥ 1, got ${maxNumSeqs}`)
  }
  if (!Number.isSafeInteger(maxNumBatchedTokens) || maxNumBatchedTokens < maxNumSeqs + chunkRows) {
    throw new RangeError(
      `token-budget: maxNumBatchedTokens must be at least maxNumSeqs + ${chunkRows} = ${maxNumSeqs + chunkRows}, got ${maxNumBatchedTokens}`,
    )
  }
  const budget = { maxNumBatchedTokens, maxNumSeqs }
  return { name: "token-budget", options: budget, tokenBudget: budget }
}
