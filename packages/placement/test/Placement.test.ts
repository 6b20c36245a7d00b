import { denseSchedule } from "@uniprefill/model/DropSchedule"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import { place, type PlacementRequest } from "@uniprefill/placement/Placement"
import { Placement } from "@uniprefill/placement/services/PlacementService"
import { shardsOf, splitFault } from "@uniprefill/placement/Shards"
import { Effect } from "effect"
import { describe, expect, it } from "vitest"

const llama = (over: Partial<ModelSpec> & { readonly layerCount: number }): ModelSpec => ({
  architecture: "LlamaForCausalLM",
  hiddenSize: 4096,
  intermediateSize: 14_336,
  vocabSize: 128_256,
  maxPositions: 131_072,
  heads: 32,
  kvHeads: 8,
  headDim: 128,
  attentionScale: 128 ** -0.5,
  attentionSoftCap: 0,
  normEps: 1e-5,
  tieWordEmbeddings: false,
  attentionBias: false,
  mlpBias: false,
  rope: { theta: 500_000, scaling: { type: "none" } },
  layers: Array.from({ length: over.layerCount }, () => ({ kind: "full", window: 0 })),
  stateBytesPerLayer: 0,
  eosTokenIds: [128_001],
  ...over,
})

const small = llama({ layerCount: 32 })
const large = llama({ layerCount: 80, hiddenSize: 8192, intermediateSize: 28_672, heads: 64 })
const schedule = { ...denseSchedule, dropLayers: [7, 11, 15, 19, 23, 27].map((layer) => ({ layer, p: 0.99 })) }

/** Parameters of a Llama model × 2 bytes. */
const weightBytes = ({ hiddenSize, intermediateSize, vocabSize, heads, kvHeads, headDim, layers }: ModelSpec): number =>
  2 *
  (2 * vocabSize * hiddenSize +
    layers.length * (2 * hiddenSize * (heads + kvHeads) * headDim + 3 * hiddenSize * intermediateSize))

const GB = 1e9
const request = (over: Partial<PlacementRequest> = {}): PlacementRequest => {
  const spec = over.spec ?? small
  return {
    spec,
    schedule,
    weightBytes: weightBytes(spec),
    weightElementBytes: 2,
    pageSize: 128,
    kvElementBytes: 2,
    carryElementBytes: 2,
    slots: 64,
    maxRowsPerStep: 8192,
    maxModelLen: 131_072,
    reserveBytes: GB,
    mesh: { devices: 8, devicesPerHost: 8, memoryBytes: 141 * GB },
    memoryUtilization: 0.9,
    ...over,
  }
}

const planOf = (over: Partial<PlacementRequest>) => {
  const outcome = place(request(over))
  if (outcome._tag === "NoFit") throw new Error(outcome.misfits.map(({ detail }) => detail).join("; "))
  return outcome.plan
}

describe("the layout chosen", () => {
  it("is a replica on every device for a model that one holds", () => {
    const plan = planOf({})
    expect(plan).toMatchObject({ tensorParallel: 1, replicas: 8, idleDevices: 0 })
    // 16.06 GB of weights in 126.9 GB, and 128 KiB of K/V a token.
    expect(plan.memory.weights).toBe(weightBytes(small))
    const { layout } = plan.memory
    const free = 126.9 * GB - plan.memory.weights - plan.memory.workspace - GB
    expect(plan.slabs).toBe(Math.floor(free / layout.slabBytes))
    expect(plan.longestAtOnce).toBe(Math.floor((plan.slabs * layout.slabBytes) / (131_072 * 131_072)))
  })

  it("is split as far as it must be for one that does not fit, and says what was too small", () => {
    const outcome = place(request({ spec: large }))
    expect(outcome).toMatchObject({ _tag: "Placed", plan: { tensorParallel: 2, replicas: 4 } })
    expect(outcome.misfits).toEqual([
      {
        tensorParallel: 1,
        reason: "Weights",
        detail: expect.stringMatching(/^weights 141\.\d\d GB, .* 126\.90 GB can be used$/),
      },
    ])
  })

  it("leaves room for the longest request, carries included", () => {
    const mesh = { devices: 2, devicesPerHost: 2, memoryBytes: 36 * GB }
    const dropping = place(request({ mesh }))
    expect(dropping.misfits[0]).toMatchObject({
      tensorParallel: 1,
      reason: "Request",
      detail: expect.stringMatching(/131072 tokens may need \d+ slabs of .*MB; .* hold \d+$/),
    })
    expect(dropping).toMatchObject({ _tag: "Placed", plan: { tensorParallel: 2 } })
    // Without carries the same device is enough.
    expect(planOf({ mesh: { ...mesh, memoryBytes: 41 * GB }, schedule: denseSchedule }).tensorParallel).toBe(1)
  })

  it("follows the target", () => {
    const asked: Array<number> = []
    const target = {
      timeToFirstTokenMicros: 3_000_000,
      timePerTokenMicros: 50_000,
      predict: (degree: number) => {
        asked.push(degree)
        return { timeToFirstTokenMicros: 8_000_000 / degree, timePerTokenMicros: 20_000 }
      },
    }
    const outcome = place(request({ target }))
    expect(outcome).toMatchObject({ _tag: "Placed", plan: { tensorParallel: 4, replicas: 2 } })
    expect(asked).toEqual([1, 2, 4])
    expect(outcome.misfits.at(-1)).toEqual({
      tensorParallel: 2,
      reason: "Target",
      detail: "timeToFirstTokenMicros is predicted as 4000000, at most 3000000 is wanted",
    })
  })

  it("keeps groups within hosts", () => {
    const mesh = { devices: 12, devicesPerHost: 4, memoryBytes: 120 * GB }
    expect(planOf({ spec: large, mesh })).toMatchObject({ tensorParallel: 2, replicas: 6 })
    const two = place(request({ spec: large, mesh: { devices: 8, devicesPerHost: 1, memoryBytes: 100 * GB } }))
    expect(two).toMatchObject({ _tag: "NoFit" })
    expect(two.misfits.map(({ reason }) => reason)).toEqual(["Weights", "Mesh", "Mesh", "Mesh"])
  })
})

describe("shards", () => {
  it("cover every head once, and repeat KV heads where there are more ranks", () => {
    for (const ranks of [1, 2, 4, 8]) {
      const shards = shardsOf({ ...small, kvHeads: 2 }, ranks)
      const count = (pick: "heads" | "intermediate" | "hidden") =>
        shards.reduce((sum, shard) => sum + shard[pick][1] - shard[pick][0], 0)
      expect([count("heads"), count("intermediate"), count("hidden")]).toEqual([32, 14_336, 4096])
      for (const [i, { heads, kvHeads }] of shards.entries()) {
        expect(heads[0]).toBe(i === 0 ? 0 : shards[i - 1]!.heads[1])
        // Each query head is where its KV head is: 16 of them share one.
        expect([kvHeads[0], kvHeads[1]]).toEqual([Math.floor(heads[0] / 16), Math.ceil(heads[1] / 16)])
      }
    }
  })

  it("of repeated KV heads take their memory on every rank", () => {
    const spec = { ...small, kvHeads: 2 }
    const bytesOf = (tensorParallel: number) => {
      const target = {
        timeToFirstTokenMicros: 0,
        timePerTokenMicros: 0,
        predict: (degree: number) => ({
          timeToFirstTokenMicros: degree === tensorParallel ? 0 : 1,
          timePerTokenMicros: 0,
        }),
      }
      const { layout } = planOf({ spec, target, schedule: denseSchedule }).memory
      return layout.tables[0]!.slabsPerPage * layout.slabBytes
    }
    expect(bytesOf(1) / bytesOf(2)).toBe(2)
    expect(bytesOf(2)).toBe(bytesOf(8))
  })

  it("are refused where they would be uneven", () => {
    expect(splitFault({ ...small, heads: 12 }, 8)).toBe("heads 12 cannot be split into 8 equal parts")
    expect(splitFault({ ...small, kvHeads: 6, heads: 24 }, 4)).toMatch(/^kvHeads 6 can neither/)
    expect(splitFault(small, 8)).toBeNull()
    const odd = place(request({ spec: { ...large, heads: 65 }, weightBytes: 200 * GB }))
    expect(odd.misfits.map(({ reason }) => reason)).toEqual(["Weights", "Split", "Split", "Split"])
  })
})

describe("the service", () => {
  const run = (over: Partial<PlacementRequest>) =>
    Effect.runPromise(
      Effect.flatMap(Placement, (placement) => placement.place(request(over))).pipe(Effect.provide(Placement.layer)),
    )

  it("gives the plan, or every reason at once", async () => {
    expect((await run({})).replicas).toBe(8)
    const tiny = { devices: 8, devicesPerHost: 8, memoryBytes: 4 * GB }
    await expect(run({ spec: large, mesh: tiny })).rejects.toThrow(
      /^tensor parallel 1: weights .*; tensor parallel 2: .*; tensor parallel 4: .*; tensor parallel 8: weights 17\.\d\d GB/,
    )
  })

  it("names the field that is wrong", async () => {
    await expect(run({ memoryUtilization: 0 })).rejects.toThrow(
      /memoryUtilization must be above 0 and at most 1, got 0/,
    )
    await expect(run({ mesh: { devices: 0, devicesPerHost: 1, memoryBytes: 1 } })).rejects.toThrow(
      /mesh\.devices .* got 0/,
    )
  })
})
