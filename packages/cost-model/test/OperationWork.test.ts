import { inSixteenBits } from "@uniprefill/cost-model/ModelShape"
import { operationWork } from "@uniprefill/cost-model/OperationWork"
import { denseSchedule, type DropSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import { readModelConfig } from "@uniprefill/model/ModelConfig"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import { describe, expect, it } from "vitest"
import { tinyConfigs } from "../../../test/golden/tinyConfigs.ts"
import { tinyModels, tinyTensors } from "../../../test/golden/tinyModels.ts"

const options = { pageSize: 64, kvElementBytes: 2, carryElementBytes: 2 }
const specOf = (name: string): ModelSpec => readModelConfig("config.json", tinyConfigs[name]!.config).spec
const workOf = (spec: ModelSpec, schedule: DropSchedule = denseSchedule, ranks = 1) =>
  operationWork(inSixteenBits(spec), makeKvLayout(spec, schedule, options), ranks)

/** Elements of the matrices that a decode row is multiplied with, by the tensors of a model as they are written. */
const multiplied = (name: string): number => {
  const spec = specOf(name)
  let sum = spec.hiddenSize * spec.vocabSize
  for (const [tensor, { shape }] of tinyTensors(name)) {
    const layer = /layers\.(\d+)\./.exec(tensor)?.[1]
    if (layer === undefined || shape.length < 2 || tensor.includes("conv1d")) continue
    const { mlp } = spec.layers[Number(layer)]!
    const elements = shape.reduce((product, size) => product * size, 1)
    // Of the experts a row passes some.
    const share = mlp.kind === "moe" && tensor.includes(".experts.") ? mlp.topK / mlp.experts : 1
    sum += elements * share
  }
  return sum
}

describe("the work of every family", () => {
  it.each(tinyModels)("%s: a decode row is multiplied with every matrix but the embedding", (name) => {
    const [work] = workOf(specOf(name))
    expect(work!.decodeRowFlops).toBeCloseTo(2 * multiplied(name), 3)
  })

  it("of a row in prefill is that of a decode row less the last layer's trim and the unembedding", () => {
    const spec = specOf("llama-gqa")
    const [work] = workOf(spec)
    const { hiddenSize, vocabSize } = spec
    // Of the last layer K and V alone: q, o and the MLP are left out.
    const trimmed = 2 * hiddenSize * 64 + 3 * hiddenSize * 96
    expect(work!.rowFlops).toBe(work!.decodeRowFlops - 2 * (hiddenSize * vocabSize + trimmed))
  })

  it("counts pairs and keys of full layers and of windows apart, and states by row", () => {
    const [gemma] = workOf(specOf("gemma3-window"))
    // Four heads of 32: 4 · 4 · 32 FLOP a pair; 2 · 2 · 32 elements of 16 bits a key. One full layer, six with windows, one of
    // them the last, which prefill rows do not attend in.
    expect([gemma!.pairFlops, gemma!.windowPairFlops]).toEqual([512, 5 * 512])
    expect([gemma!.decodeKeyBytes, gemma!.decodeWindowKeyBytes]).toEqual([256, 6 * 256])
    expect([gemma!.decodePairFlops, gemma!.decodeWindowPairFlops]).toEqual([512, 6 * 512])
    const [qwen] = workOf(specOf("qwen3.5-tied"))
    // Three layers of 4 states of 16 × 16 in f32 and three columns of 128 in 16 bits, read and written, up to 256 bytes.
    expect(qwen!.decodeRowBytes).toBe(3 * 2 * (4096 + 768))
    expect(qwen!.recurrenceRowFlops).toBe(3 * 4 * (4 * 16 * 16 + 4 * 64 * 16))
  })

  it("over segments adds up to that of the dense model, with each drop layer's K and V before and the rest after", () => {
    const spec = specOf("qwen3.5-tied")
    const [dense] = workOf(spec)
    const schedule = { ...denseSchedule, dropLayers: [{ layer: 1, p: 0.9 }] }
    const parts = workOf(spec, schedule)
    const total = (of: (work: (typeof parts)[number]) => number) => parts.reduce((sum, work) => sum + of(work), 0)
    expect(total((work) => work.decodeRowFlops)).toBe(dense!.decodeRowFlops)
    expect(total((work) => work.decodeKeyBytes)).toBe(dense!.decodeKeyBytes)
    expect(total((work) => work.rowFlops)).toBe(dense!.rowFlops)
    expect(total((work) => work.pairFlops + work.entryPairFlops)).toBe(dense!.pairFlops)
    expect(parts.map((work) => work.scorePairFlops)).toEqual([4 * 4 * 32, 0])
  })

  it.each(["llama-gqa", "gemma3-window", "qwen3.5-moe", "qwen3-next"])(
    "%s on two ranks is halved, but for lm_head",
    (name) => {
      const spec = specOf(name)
      const [[one], [two]] = [workOf(spec), workOf(spec, denseSchedule, 2)]
      const head = spec.hiddenSize * spec.vocabSize
      expect(two!.decodeRowFlops).toBe((one!.decodeRowFlops - 2 * head) / 2 + 2 * head)
      expect(two!.decodeWeightBytes).toBe((one!.decodeWeightBytes - 2 * head) / 2 + 2 * head)
      for (const field of ["rowFlops", "pairFlops", "decodeKeyBytes", "decodeExpertBytes"] as const) {
        expect([field, two![field]]).toEqual([field, one![field] / 2])
      }
      expect([one!.rowReductions, one!.decodeReductions]).toEqual([0, 0])
      expect(two!.decodeReductions).toBe(2 * spec.layers.length)
    },
  )

  it("of a linear layer whose key head ranks share has q and k on each", () => {
    const spec = specOf("qwen3.5-tied")
    const [[one], [four]] = [workOf(spec), workOf(spec, denseSchedule, 4)]
    const head = spec.hiddenSize * spec.vocabSize
    // Two key heads of 16 in three layers, and two KV heads of 32 in two: half of either on each of four.
    const shared = 3 * 2 * 2 * 16 * spec.hiddenSize + 2 * 2 * 2 * 32 * spec.hiddenSize
    expect(four!.decodeRowFlops).toBe((one!.decodeRowFlops - 2 * head - 2 * shared) / 4 + 2 * head + shared)
    // One state of 16 × 16 and three columns of 48.
    expect(four!.decodeRowBytes).toBe(3 * 2 * (1024 + 512))
    expect(four!.recurrenceRowFlops).toBe(one!.recurrenceRowFlops / 4)
  })
})
