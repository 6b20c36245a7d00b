import { greedy } from "@uniprefill/executor/contract/Executor"
import { sample } from "@uniprefill/executor/reference/ReferenceSampler"
import { describe, expect, it } from "vitest"

const logits = Float64Array.of(1, 3, 2, 3)
const draw = (parameters: Partial<typeof greedy>, output: ReadonlyArray<number> = [], row = logits) =>
  sample(row, { ...greedy, ...parameters }, [0], output).token

describe("sample", () => {
  it("takes the lowest id among equals when greedy", () => {
    expect(draw({})).toBe(1)
  })

  it("applies bias, allowed ids and minimum length before anything else", () => {
    expect(draw({ logitBias: [[0, 5]] })).toBe(0)
    expect(draw({ allowedTokenIds: [0, 2] })).toBe(2)
    expect(draw({ stopTokenIds: [1], minTokens: 1 })).toBe(3)
    expect(draw({ stopTokenIds: [1], minTokens: 1 }, [2])).toBe(1)
    expect(draw({ allowedTokenIds: [1], stopTokenIds: [1], minTokens: 1 })).toBe(1)
  })

  it("penalises what was output, and by repetition also what was prompted", () => {
    expect(draw({ presencePenalty: 2 }, [1])).toBe(3)
    expect(draw({ frequencyPenalty: 0.6 }, [1, 1, 3])).toBe(3)
    expect(draw({ repetitionPenalty: 4 }, [1, 3])).toBe(2)
    expect(draw({ repetitionPenalty: 4 }, [], Float64Array.of(-1, -2, -9, -9))).toBe(1)
  })

  it("draws by the seed and the token's number alone", () => {
    const draws = (seed: bigint) =>
      Array.from({ length: 40 }, (_, n) => draw({ temperature: 1, seed }, Array(n).fill(0)))
    expect(draws(7n)).toEqual(draws(7n))
    expect(draws(7n)).not.toEqual(draws(8n))
    expect(draws(7n)).not.toEqual(draws(7n + (1n << 40n)))
  })

  it("draws each token as often as its share says", () => {
    const row = Float64Array.from([0.5, 0.3, 0.15, 0.05], Math.log)
    const counts = [0, 0, 0, 0]
    const draws = 4000
    for (let n = 0; n < draws; n++) counts[draw({ temperature: 1, seed: BigInt(n) }, [], row)]!++
    for (const [token, share] of [0.5, 0.3, 0.15, 0.05].entries()) {
      // Five standard deviations.
      expect(Math.abs(counts[token]! / draws - share)).toBeLessThan(5 * Math.sqrt((share * (1 - share)) / draws))
    }
  })

  it.each([
    [{ topK: 2 }, [0, 1]],
    [{ topP: 0.6 }, [0, 1]],
    [{ topP: 0.5 }, [0]],
    [{ minP: 0.2 }, [0, 1, 2]],
  ])("keeps only the tokens that %j leaves", (filter, expected) => {
    const row = Float64Array.from([0.5, 0.3, 0.15, 0.05], Math.log)
    const seen = new Set<number>()
    for (let n = 0; n < 500; n++) seen.add(draw({ ...filter, temperature: 1, seed: BigInt(n) }, [], row))
    expect([...seen].toSorted((a, b) => a - b)).toEqual(expected)
  })

  it("reports logprobs of the distribution before temperature and filters", () => {
    const { token, logprobs } = sample(
      logits,
      { ...greedy, logprobs: 2, logitBias: [[0, 9]], temperature: 0.1 },
      [],
      [],
    )
    expect(token).toBe(0)
    const sum = Math.log(logits.reduce((total, logit) => total + Math.exp(logit), 0))
    expect(logprobs.map(([id]) => id)).toEqual([0, 1, 3])
    for (const [id, logprob] of logprobs) expect(logprob).toBeCloseTo(logits[id]! - sum, 12)
  })

  it("flags a row with a NaN or an infinity", () => {
    expect(sample(Float64Array.of(1, NaN), greedy, [], [])).toMatchObject({ token: 0, nonFinite: true })
    expect(sample(Float64Array.of(1, Infinity), greedy, [], []).nonFinite).toBe(true)
  })
})
