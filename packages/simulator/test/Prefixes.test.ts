import { expect, it } from "vitest"
import { simulated } from "./Experiments.ts"

/** Conversations: each turn's prompt begins with the last one's prompt. */
const conversations = {
  workload: { arrivals: "sessions", requests: 60, turns: 4, ratePerSecond: 0.5, promptTokens: 6000, outputTokens: 40 },
} as const

const cachedTokens = (model: string, engine: object): number => {
  const simulation = simulated({ ...conversations, model, tensorParallel: model.startsWith("qwen") ? 2 : 1, engine })
  return simulation.log.cachedTokens.reduce((sum, tokens) => sum + tokens, 0)
}

it.each(["llama-3.1-8b", "gemma-3-12b", "qwen3-next-80b-a3b"])(
  "%s goes on from the prefix of the turn before",
  (model) => {
    expect(cachedTokens(model, { prefixCaching: false })).toBe(0)
    expect(cachedTokens(model, {})).toBeGreaterThan(100_000)
  },
)

it("recurrent layers can only go on from a copy of their states", () => {
  expect(cachedTokens("qwen3-next-80b-a3b", { snapshots: 0 })).toBe(0)
})
