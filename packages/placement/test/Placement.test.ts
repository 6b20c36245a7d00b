import { denseSchedule } from "@uniprefill/model/DropSchedule"
import { readModelConfig } from "@uniprefill/model/ModelConfig"
import type { AttentionSpec, LayerSpec, ModelSpec } from "@uniprefill/model/ModelSpec"
import { parameterCount } from "@uniprefill/model/Parameters"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import { rankWeightBytes } from "@uniprefill/placement/RankMemory"
import { footprintOf } from "@uniprefill/placement/Footprint"
import { type Latencies, type Layout, layoutsOf, type PlacementRequest } from "@uniprefill/placement/Placement"
import { modelSplitFault, rankSpec, shardsOf, splittablesOf } from "@uniprefill/placement/Shards"
import { describe, expect, it } from "vitest"

interface Sizes {
  readonly layers?: number
  readonly hidden?: number
  readonly inner?: number
  readonly heads?: number
  readonly kvHeads?: number
}

const llama = ({ layers = 32, hidden = 4096, inner = 14_336, heads = 32, kvHeads = 8 }: Sizes): ModelSpec =>
  readModelConfig("config.json", {
    architectures: ["LlamaForCausalLM"],
    hidden_size: hidden,
    intermediate_size: inner,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: 128,
    vocab_size: 128_256,
    max_position_embeddings: 131_072,
    rms_norm_eps: 1e-5,
  }).spec

const small = llama({})
const sizesOfLarge = { layers: 80, hidden: 8192, inner: 28_672, heads: 64 }
const large = llama(sizesOfLarge)
const schedule = { ...denseSchedule, dropLayers: [7, 11, 15, 19, 23, 27].map((layer) => ({ layer, p: 0.99 })) }

const weightBytes = (spec: ModelSpec): number => 2 * parameterCount(spec)

const weightsOf = (spec: ModelSpec) => ({ spec, weightBytes: weightBytes(spec), weightElementBytes: 2 })

/** One layer of Gated DeltaNet. */
const linear = (keyHeads: number, valueHeads: number): ModelSpec => {
  const mixer = {
    kind: "delta",
    keyHeads,
    valueHeads,
    keyDim: 128,
    valueDim: 128,
    convKernel: 4,
    grouped: false,
    normaliseInput: "float",
    normEps: 1e-6,
  } as const
  return { ...small, layers: [{ ...small.layers[0]!, mixer }] }
}

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
    mesh: { devices: 8, devicesPerHost: 8 },
    memoryBytes: 141 * GB,
    memoryUtilization: 0.9,
    ...over,
  }
}

const layouts = (over: Partial<PlacementRequest> = {}) => layoutsOf(request(over))
const shapes = (of: ReadonlyArray<Layout>) => of.map((one) => `${one.tensorParallel} × ${one.replicas}`)
const reasons = (of: ReadonlyArray<Layout>) => of.map(({ misfit }) => misfit?.reason ?? "works")

describe("layouts", () => {
  it("are every degree in as many replicas as there are devices for, with what a rank holds", () => {
    const all = layouts()
    expect(shapes(all)).toEqual(["1 × 8", "2 × 4", "4 × 2", "8 × 1"])
    expect(reasons(all)).toEqual(["works", "works", "works", "works"])
    const { memory, slabs, usableBytes } = all[0]!.fit!
    // 16.06 GB of weights in 126.9 GB.
    expect(memory.weights).toBe(weightBytes(small))
    expect(usableBytes).toBe(126.9 * GB)
    expect(slabs).toBe(Math.floor((126.9 * GB - memory.weights - memory.workspace - GB) / memory.layout.slabBytes))
    // A rank of two has half of everything but what is whole on each.
    const half = all[1]!.fit!.memory
    const embeddings = 2 * 4096 * 128_256 * 2
    expect(half.weights).toBe((memory.weights - embeddings) / 2 + embeddings)
    expect(half.layout.slabBytes).toBe(memory.layout.slabBytes / 2)
    expect(half.layout.tables).toMatchObject(memory.layout.tables.map(({ slabsPerPage }) => ({ slabsPerPage })))
  })

  it("that do not hold the weights say so with the numbers", () => {
    const all = layouts({ spec: large })
    expect(reasons(all)).toEqual(["Weights", "works", "works", "works"])
    expect(all[0]).toMatchObject({
      fit: null,
      misfit: { detail: expect.stringMatching(/^weights 141\.\d\d GB, .* make .* a device; 126\.90 GB can be used$/) },
    })
  })

  it("leave room for the longest request, carries included", () => {
    const mesh = { devices: 2, devicesPerHost: 2 }
    const dropping = layouts({ mesh, memoryBytes: 36 * GB })
    expect(reasons(dropping)).toEqual(["Request", "works"])
    expect(dropping[0]!.misfit!.detail).toMatch(/131072 tokens may need \d+ slabs of .*MB; .* hold \d+$/)
    expect(dropping[0]!.fit!.slabs).toBeGreaterThan(0)
    // Without carries a device of little more is enough, with them it is not.
    const one = { mesh, memoryBytes: 41 * GB }
    expect(reasons(layouts({ ...one, schedule: denseSchedule }))).toEqual(["works", "works"])
    expect(reasons(layouts(one))).toEqual(["Request", "works"])
  })

  it("are held to a target, predicted for those alone that fit", () => {
    const asked: Array<number> = []
    const target = { timeToFirstTokenMicros: 3_000_000, timePerTokenMicros: Number.POSITIVE_INFINITY }
    const predict = (degree: number): Latencies => {
      asked.push(degree)
      return { timeToFirstTokenMicros: 8_000_000 / degree, timePerTokenMicros: 20_000 }
    }
    const all = layouts({ spec: large, predict, target })
    expect(reasons(all)).toEqual(["Weights", "Target", "works", "works"])
    expect(asked).toEqual([2, 4, 8])
    expect(all[1]).toMatchObject({
      predicted: { timeToFirstTokenMicros: 4_000_000 },
      misfit: { detail: "time to first token is predicted as 4000 ms, at most 3000 ms is wanted" },
    })
    const slow = { timeToFirstTokenMicros: Number.POSITIVE_INFINITY, timePerTokenMicros: 19_999 }
    expect(layouts({ predict, target: slow })[0]!.misfit!.detail).toBe(
      "time per token is predicted as 20 ms, at most 19.999 ms is wanted",
    )
    expect(reasons(layouts({ predict: () => null, target }))).toEqual(["works", "works", "works", "works"])
  })

  it("keep groups within hosts, and use a host that is not full", () => {
    expect(shapes(layouts({ mesh: { devices: 12, devicesPerHost: 4 } }))).toEqual(["1 × 12", "2 × 6", "4 × 3", "8 × 0"])
    const partly = layouts({ mesh: { devices: 7, devicesPerHost: 4 } })
    expect(shapes(partly)).toEqual(["1 × 7", "2 × 3", "4 × 1"])
    expect(partly.map(({ idleDevices }) => idleDevices)).toEqual([0, 1, 3])
    const alone = layouts({ spec: large, mesh: { devices: 8, devicesPerHost: 1 }, memoryBytes: 100 * GB })
    expect(reasons(alone)).toEqual(["Weights", "Mesh", "Mesh", "Mesh"])
    expect(alone[3]!.misfit!.detail).toBe("8 ranks are linked within a host, which has 1 device")
  })

  it("of a model that cannot be split evenly say what is uneven", () => {
    const odd = layouts({ spec: llama({ ...sizesOfLarge, heads: 65, kvHeads: 5 }), weightBytes: 200 * GB })
    expect(reasons(odd)).toEqual(["Weights", "Split", "Split", "Split"])
  })

  it("are refused for a mesh or a share that is none, by the field", () => {
    expect(() => layouts({ memoryUtilization: 0 })).toThrow(/memoryUtilization must be above 0 and at most 1, got 0/)
    expect(() => layouts({ mesh: { devices: 0, devicesPerHost: 1 } })).toThrow(/mesh\.devices .* got 0/)
  })
})

describe("footprints", () => {
  const options = { pageSize: 128, kvElementBytes: 2, carryElementBytes: 2 }
  const layout = makeKvLayout(small, schedule, options)
  const tokenBytes = 2 * 8 * 128 * 2 * 32

  it("of a dense prompt are its K and V in all layers", () => {
    const { slabs, carrySlabs } = footprintOf(layout, [12_800])
    expect(slabs * layout.slabBytes).toBe(12_800 * tokenBytes)
    expect(carrySlabs).toBe(0)
  })

  it("of one that drops are each segment's rows, and the two largest carries that meet", () => {
    const rows = [12_800, 6400, 3200, 1600, 800, 400, 200]
    const { slabs, carrySlabs } = footprintOf(layout, rows)
    // Segments of 8, 4, 4, 4, 4, 4 and 4 layers; pages of 128 rows.
    const pages = rows.map((one) => Math.ceil(one / 128))
    const layerPages = pages.reduce((sum, one, i) => sum + one * (i === 0 ? 8 : 4), 0)
    expect(slabs * layout.slabBytes).toBe((layerPages * 128 * tokenBytes) / 32)
    expect(carrySlabs * layout.slabBytes).toBe((12_800 + 6400) * 4096 * 2)
  })

  it("of a sliding window are no longer than the window", () => {
    const layers = small.layers.map((layer, i): LayerSpec => {
      const mixer = layer.mixer as AttentionSpec
      return i % 2 === 0 ? { ...layer, mixer: { ...mixer, kind: "sliding", window: 256 } } : layer
    })
    const windowed = makeKvLayout({ ...small, layers }, denseSchedule, options)
    const full = footprintOf(windowed, [12_800]).slabs - footprintOf(windowed, [6400]).slabs
    expect(full * windowed.slabBytes).toBe((6400 * tokenBytes) / 2)
    expect(footprintOf(windowed, [12_800]).slabs).toBe(2 * full + (3 * 128 * tokenBytes) / 2 / windowed.slabBytes)
  })
})

describe("shards", () => {
  it("cover every head once, and repeat KV heads where there are more ranks", () => {
    for (const ranks of [1, 2, 4, 8]) {
      const shards = shardsOf(splittablesOf(llama({ kvHeads: 2 }))[0]!, ranks)
      const count = (pick: "heads" | "inner" | "hidden") =>
        shards.reduce((sum, shard) => sum + shard[pick][1] - shard[pick][0], 0)
      expect([count("heads"), count("inner"), count("hidden")]).toEqual([32, 14_336, 4096])
      for (const [i, { heads, kvHeads }] of shards.entries()) {
        expect(heads[0]).toBe(i === 0 ? 0 : shards[i - 1]!.heads[1])
        // Each query head is where its KV head is: 16 of them share one.
        expect([kvHeads[0], kvHeads[1]]).toEqual([Math.floor(heads[0] / 16), Math.ceil(heads[1] / 16)])
      }
    }
  })

  it("of repeated KV heads take their memory on every rank", () => {
    const bytesOf = layouts({ spec: llama({ kvHeads: 2 }), schedule: denseSchedule }).map(({ fit }) => {
      const { layout } = fit!.memory
      return layout.tables[0]!.slabsPerPage * layout.slabBytes
    })
    expect(bytesOf[0]! / bytesOf[1]!).toBe(2)
    expect(bytesOf[3]).toBe(bytesOf[1])
  })

  it("of a linear layer repeat its key heads where there are fewer than ranks", () => {
    const spec = linear(2, 8)
    expect([1, 2, 4, 8].map((ranks) => modelSplitFault(spec, ranks))).toEqual([null, null, null, null])
    expect(rankSpec(spec, 2).layers[0]!.mixer).toMatchObject({ keyHeads: 1, valueHeads: 4 })
    expect(rankSpec(spec, 8).layers[0]!.mixer).toMatchObject({ keyHeads: 1, valueHeads: 1 })
    expect(modelSplitFault(spec, 16)).toBe("valueHeads 8 cannot be split into 16 equal parts")
    expect(modelSplitFault(linear(6, 24), 4)).toBe(
      "keyHeads 6 can neither be split into 4 equal parts nor repeated evenly on 4 ranks",
    )
    // q and k of the one head are whole on both ranks of two.
    const bytes = [1, 2].map((ranks) => rankWeightBytes(weightsOf(linear(1, 2)), ranks))
    const embeddings = 2 * 2 * 4096 * 128_256
    const keys = 2 * 2 * 128 * 4096
    expect(bytes[1]).toBe((bytes[0]! - embeddings - keys) / 2 + embeddings + keys)
  })

  it("in eight bits weigh a byte a parameter and a scale a row in the layers' matrices", () => {
    const spec = llama({ layers: 2 })
    const bytes = (ranks: number, quantization: "none" | "fp8") =>
      rankWeightBytes({ ...weightsOf(spec), quantization }, ranks)
    const saved = (qkv: number, o: number, gateUp: number, inner: number) =>
      2 * (qkv * 4092 + 4096 * (o - 4) + gateUp * 4092 + 4096 * (inner - 4))
    expect(bytes(1, "none") - bytes(1, "fp8")).toBe(saved(6144, 4096, 28_672, 14_336))
    expect(bytes(2, "none") - bytes(2, "fp8")).toBe(saved(3072, 2048, 14_336, 7168))
    // 772 rows of q, k, v, z, b and a are no multiple of 16: they stay as they are.
    const odd = { ...weightsOf(linear(1, 2)), quantization: "fp8" } as const
    const mlp = 28_672 * 4092 + 4096 * (14_336 - 4)
    expect(rankWeightBytes(weightsOf(odd.spec), 1) - rankWeightBytes(odd, 1)).toBe(4096 * (2 * 128 - 4) + mlp)
  })

  it("are refused where they would be uneven", () => {
    const fault = (sizes: Sizes, ranks: number) => modelSplitFault(llama(sizes), ranks)
    expect(fault({ heads: 12, kvHeads: 4 }, 8)).toBe("heads 12 cannot be split into 8 equal parts")
    expect(fault({ kvHeads: 6, heads: 24 }, 4)).toMatch(/^kvHeads 6 can neither/)
    expect(fault({}, 8)).toBeNull()
    const mlp = { kind: "moe", experts: 8, topK: 2, inner: 64, sharedInner: 36 } as const
    const shared = { ...small, layers: [small.layers[0]!, { ...small.layers[1]!, mlp } as LayerSpec] }
    expect(modelSplitFault(shared, 4)).toBeNull()
    expect(modelSplitFault(shared, 8)).toBe("sharedInner 36 cannot be split into 8 equal parts")
  })
})
