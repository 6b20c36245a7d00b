import type { Policy } from "../Policy.ts"

/**
 * The prompt of which most is in the prefix cache goes first, then the earlier arrival: what is cached is used before it is
 * evicted.
 */
export const longestPrefixMatch: Policy = {
  name: "lpm",
  order: (queue) => queue.sort((a, b) => b.cachedTokens - a.cachedTokens || a.id - b.id).map(({ id }) => id),
}
