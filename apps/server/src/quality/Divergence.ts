/** The most likely tokens of one place with their log-probabilities. */
export type Logprobs = ReadonlyArray<readonly [token: number, logprob: number]>

/** KL(dense ‖ dropped), nats, over the tokens that both know, and one for all others. */
export const klOf = (dense: Logprobs, dropped: Logprobs): number => {
  const p = new Map(dense)
  const q = new Map(dropped)
  let divergence = 0
  let restP = 1
  let restQ = 1
  for (const [token, logP] of p) {
    const logQ = q.get(token)
    if (logQ === undefined) continue
    divergence += Math.exp(logP) * (logP - logQ)
    restP -= Math.exp(logP)
    restQ -= Math.exp(logQ)
  }
  const least = 1e-9
  restP = Math.max(least, restP)
  restQ = Math.max(least, restQ)
  return Math.max(0, divergence + restP * Math.log(restP / restQ))
}

/** An answer, place by place: the token and what else was likely there. */
export interface Path {
  readonly tokens: ReadonlyArray<number>
  readonly likely: ReadonlyArray<Logprobs>
}

/** KL of a whole answer, nats: summed over the places where both have the same tokens before it. */
export const pathKl = (dense: Path, dropped: Path): number => {
  let sum = 0
  const places = Math.min(dense.likely.length, dropped.likely.length)
  for (let i = 0; i < places; i++) {
    sum += klOf(dense.likely[i]!, dropped.likely[i]!)
    if (dense.tokens[i] !== dropped.tokens[i]) break
  }
  return sum
}
