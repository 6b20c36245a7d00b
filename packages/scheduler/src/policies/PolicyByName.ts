import { fcfs, type Policy } from "../Policy.ts"
import { earliestDeadline } from "./EarliestDeadline.ts"
import { fairShare } from "./FairShare.ts"
import { longestPrefixMatch } from "./LongestPrefixMatch.ts"
import { priority } from "./Priority.ts"
import { shortestPrefill } from "./ShortestPrefill.ts"
import { tokenBudget } from "./TokenBudgetPolicy.ts"

/** Names of the policies that come with the product. */
export const policyNames = [
  "fcfs",
  "priority",
  "shortest-prefill",
  "earliest-deadline",
  "fair-share",
  "lpm",
  "token-budget",
] as const

/** What vLLM takes when it is told nothing. */
export const defaultTokenBudget = { maxNumBatchedTokens: 2048, maxNumSeqs: 128 } as const

const plain: ReadonlyMap<string, Policy> = new Map(
  [fcfs, priority, shortestPrefill, earliestDeadline, fairShare, longestPrefixMatch].map((policy) => [
    policy.name,
    policy,
  ]),
)

/**
 * A policy by its name, with its options where it takes any. Undefined for a name that none has. Fails with RangeError for
 * options that a policy does not take, and for values out of range.
 */
export const policyByName = (name: string, options: Readonly<Record<string, number>> = {}): Policy | undefined => {
  const isTokenBudget = name === "token-budget"
  if (!isTokenBudget && !plain.has(name)) return undefined
  const unknown = Object.keys(options).find((option) => !isTokenBudget || !(option in defaultTokenBudget))
  if (unknown !== undefined) throw new RangeError(`policy ${name} takes no option ${JSON.stringify(unknown)}`)
  return isTokenBudget ? tokenBudget({ ...defaultTokenBudget, ...options }) : plain.get(name)
}
