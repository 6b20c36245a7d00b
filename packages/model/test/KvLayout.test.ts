import { denseSchedule, type DropSchedule } from "@uniprefill/model/DropSchedule"
import { type KvLayout, lastSegment, layoutJson, makeKvLayout } from "@uniprefill/model/KvLayout"
import { readModelConfig } from "@uniprefill/model/ModelConfig"
import {
  attentionOf,
  type AttentionSpec,
  type DeltaSpec,
  kvWidth,
  type LayerKind,
  layerKind,
  type MixerSpec,
  type ModelSpec,
} from "@uniprefill/model/ModelSpec"
import fc from "fast-check"
import { describe, expect, it } from "vitest"

interface Sizes {
  readonly kvHeads?: number
  readonly headDim?: number
  readonly hiddenSize?: number
  /** KV heads of layers that differ from the others. */
  readonly other?: number
  readonly isOther?: ReadonlyArray<boolean>
}

const delta: DeltaSpec = {
  kind: "delta",
  keyHeads: 2,
  valueHeads: 4,
  keyDim: 16,
  valueDim: 32,
  convKernel: 4,
  grouped: false,
  normaliseInput: "float",
  normEps: 1e-6,
}

const specOf = (kinds: ReadonlyArray<LayerKind>, sizes: Sizes = {}): ModelSpec => {
  const { kvHeads = 2, headDim = 64, hiddenSize = 256, other = kvHeads, isOther = [] } = sizes
  const { spec } = readModelConfig("config.json", {
    architectures: ["LlamaForCausalLM"],
    hidden_size: hiddenSize,
    intermediate_size: 640,
    num_hidden_layers: 1,
    num_attention_heads: 8,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    vocab_size: 100,
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-5,
  })
  const layer = spec.layers[0]!
  const full = layer.mixer as AttentionSpec
  const mixerOf = (kind: LayerKind, i: number): MixerSpec => {
    if (kind === "state") return delta
    const attention = isOther[i] ? { ...full, kvHeads: other } : full
    return kind === "sliding" ? { ...attention, kind, window: 512 } : attention
  }
  return { ...spec, layers: kinds.map((kind, i) => ({ ...layer, mixer: mixerOf(kind, i) })) }
}

const dropAt = (...layers: ReadonlyArray<number>): DropSchedule => ({
  ...denseSchedule,
  dropLayers: layers.map((layer) => ({ layer, p: 0.9 })),
})

const models = fc
  .record({
    kinds: fc.array(fc.constantFrom<LayerKind>("full", "sliding", "state"), { minLength: 1, maxLength: 40 }),
    kvHeads: fc.constantFrom(1, 2, 8),
    other: fc.constantFrom(1, 2, 4),
    isOther: fc.oneof(fc.constant([]), fc.array(fc.boolean(), { minLength: 41, maxLength: 41 })),
    headDim: fc.constantFrom(64, 80, 128),
    hiddenSize: fc.constantFrom(256, 640, 4096),
    drops: fc.array(fc.boolean(), { minLength: 40, maxLength: 40 }),
    pageSize: fc.constantFrom(64, 128, 256),
    kvElementBytes: fc.constantFrom(1, 2),
    carryElementBytes: fc.constantFrom(2, 4),
  })
  .map(({ kinds, kvHeads, headDim, hiddenSize, other, isOther, drops, ...options }) => {
    const layers: Array<LayerKind> = ["full", ...kinds]
    const dropLayers = layers.flatMap((kind, i) => (kind === "full" && i < layers.length - 1 && drops[i] ? [i] : []))
    const spec = specOf(layers, { kvHeads, headDim, hiddenSize, other, isOther })
    return { spec, schedule: dropAt(...dropLayers), options }
  })

const kvRowOf = (spec: ModelSpec, layers: ReadonlyArray<number>) =>
  layers.length === 0 ? 0 : kvRowBytes(spec, layers[0]!, 1)
const carryRowBytes = (spec: ModelSpec, bytes: number) => spec.hiddenSize * bytes
/** Of one layer. */
const kvRowBytes = (spec: ModelSpec, layer: number, bytes: number) =>
  2 * kvWidth(attentionOf(spec.layers[layer]!)!) * bytes
const rowSizes = (spec: ModelSpec, bytes: number) =>
  spec.layers.flatMap((layer, i) => (layerKind(layer) === "state" ? [] : [kvRowBytes(spec, i, bytes)]))

describe("makeKvLayout", () => {
  it("partitions the layers into segments that end at the drop layers", () => {
    fc.assert(
      fc.property(models, ({ spec, schedule, options }) => {
        const { segments } = makeKvLayout(spec, schedule, options)
        const covered = segments.flatMap(({ firstLayer, lastLayer }) =>
          Array.from({ length: lastLayer - firstLayer + 1 }, (_, i) => firstLayer + i),
        )
        expect(covered).toEqual(spec.layers.map((_, layer) => layer))
        expect(segments.slice(0, -1).map(({ lastLayer }) => lastLayer)).toEqual(
          schedule.dropLayers.map(({ layer }) => layer),
        )
      }),
    )
  })

  it("puts every attention layer into one table of its segment, kind and row size, and each selection's input into a carry", () => {
    fc.assert(
      fc.property(models, ({ spec, schedule, options }) => {
        const layout = makeKvLayout(spec, schedule, options)
        const seen = layout.tables.flatMap(({ layers }) => layers).toSorted((a, b) => a - b)
        expect(seen).toEqual(spec.layers.flatMap((layer, i) => (layerKind(layer) === "state" ? [] : [i])))
        for (const [t, table] of layout.tables.entries()) {
          const segment = layout.segments[table.segment]!
          const alike = layout.tables.filter(({ kind, segment: s }) => kind === table.kind && s === table.segment)
          expect(alike[0]).toBe(layout.tables[segment[table.kind]])
          expect(new Set(alike.map(({ layers }) => kvRowOf(spec, layers))).size).toBe(alike.length)
          expect(alike.length === 1 || table.kind !== "carry").toBe(true)
          expect(layout.tables.indexOf(table)).toBe(t)
          for (const layer of table.layers) {
            expect(layerKind(spec.layers[layer]!)).toBe(table.kind)
            expect(kvRowOf(spec, [layer])).toBe(kvRowOf(spec, table.layers))
            expect(layer).toBeGreaterThanOrEqual(segment.firstLayer)
            expect(layer).toBeLessThanOrEqual(segment.lastLayer)
          }
        }
        const carries = layout.segments.map(({ carry }) => carry >= 0)
        expect(carries).toEqual(layout.segments.map((_, i) => i < lastSegment(layout)))
      }),
    )
  })

  it("gives every page whole slabs that hold its layers, and wastes less than one slab where rows are alike", () => {
    fc.assert(
      fc.property(models, ({ spec, schedule, options }) => {
        const layout = makeKvLayout(spec, schedule, options)
        const sizes = new Set(rowSizes(spec, options.kvElementBytes))
        for (const { kind, layers, slabsPerPage, wastedBytesPerPage, ...table } of layout.tables) {
          const row =
            kind === "carry"
              ? carryRowBytes(spec, options.carryElementBytes)
              : layers.length * kvRowBytes(spec, layers[0]!, options.kvElementBytes)
          expect(slabsPerPage * layout.slabBytes - wastedBytesPerPage).toBe(options.pageSize * row)
          expect(wastedBytesPerPage).toBeGreaterThanOrEqual(0)
          const isAlike = kind === "carry" || sizes.size === 1
          expect(wastedBytesPerPage).toBeLessThan(isAlike ? layout.slabBytes : Number.POSITIVE_INFINITY)
          if (kind === "carry") continue
          // Each layer's K and V lie in one slab.
          const within = table.layersPerSlab ?? layout.layersPerSlab
          const layerBytes = options.pageSize * kvRowBytes(spec, layers[0]!, options.kvElementBytes)
          expect(within * layerBytes).toBeLessThanOrEqual(layout.slabBytes)
          expect((within + 1) * layerBytes).toBeGreaterThan(layout.slabBytes)
          expect(slabsPerPage).toBe(Math.ceil(layers.length / within))
        }
      }),
    )
  })

  it("takes the largest slab that divides every table, the carry too where it is whole K/V layers", () => {
    fc.assert(
      fc.property(models, ({ spec, schedule, options }) => {
        const sizes = new Set(rowSizes(spec, options.kvElementBytes))
        fc.pre(sizes.size === 1)
        const layout = makeKvLayout(spec, schedule, options)
        const counts = layout.tables.flatMap(({ layers }) => (layers.length > 0 ? [layers.length] : []))
        const carry = carryRowBytes(spec, options.carryElementBytes) / [...sizes][0]!
        if (schedule.dropLayers.length > 0 && Number.isInteger(carry)) counts.push(carry)
        const divides = (g: number) => counts.every((count) => count % g === 0)
        expect(divides(layout.layersPerSlab)).toBe(true)
        for (let larger = layout.layersPerSlab + 1; larger <= Math.min(...counts); larger++)
          expect(divides(larger)).toBe(false)
      }),
    )
  })

  it("gives rows of two sizes tables of their own, and slabs that both fill", () => {
    // 5 : 1, the full layers' rows half as large: 4 KV heads and 2 of 64 in 16 bits.
    const kinds = Array.from({ length: 12 }, (_, i): LayerKind => ((i + 1) % 6 === 0 ? "full" : "sliding"))
    const spec = specOf(kinds, { kvHeads: 4, other: 2, isOther: kinds.map((kind) => kind === "full") })
    const layout = makeKvLayout(spec, denseSchedule, { pageSize: 64, kvElementBytes: 2, carryElementBytes: 2 })
    expect(layout.slabBytes).toBe(64 * 2 * 4 * 64 * 2)
    expect(layout.layersPerSlab).toBe(1)
    expect(layout.tables).toMatchObject([
      { kind: "full", layers: [5, 11], layersPerSlab: 2, slabsPerPage: 1, wastedBytesPerPage: 0 },
      { kind: "sliding", slabsPerPage: 10, wastedBytesPerPage: 0 },
    ])
    // In one segment and kind they are two tables.
    const mixed = specOf(["full", "full", "full"], { kvHeads: 4, other: 2, isOther: [false, true, false] })
    const tables = makeKvLayout(mixed, denseSchedule, { pageSize: 64, kvElementBytes: 2, carryElementBytes: 2 }).tables
    expect(tables.map(({ layers }) => layers)).toEqual([[0, 2], [1]])
  })

  it("is one segment and one table without drop layers", () => {
    const layout = makeKvLayout(specOf(["full", "full"]), denseSchedule, {
      pageSize: 64,
      kvElementBytes: 2,
      carryElementBytes: 4,
    })
    expect(layout.segments).toEqual([{ firstLayer: 0, lastLayer: 1, full: 0, sliding: -1, carry: -1 }])
    expect(layout.tables).toMatchObject([{ layers: [0, 1], slabsPerPage: 1, wastedBytesPerPage: 0 }])
  })

  it("lays out the embedded model: 8, 3, 3 and 2 layers and three carries of two K/V layers in f32", () => {
    const spec = specOf(Array<LayerKind>(16).fill("full"))
    const layout = makeKvLayout(spec, dropAt(7, 10, 13), { pageSize: 128, kvElementBytes: 2, carryElementBytes: 4 })
    expect(layout.tables.map(({ kind, layers, slabsPerPage }) => [kind, layers.length, slabsPerPage])).toEqual([
      ["full", 8, 8],
      ["full", 3, 3],
      ["full", 3, 3],
      ["full", 2, 2],
      ["carry", 0, 2],
      ["carry", 0, 2],
      ["carry", 0, 2],
    ])
    expect(layout.slabBytes).toBe(128 * 2 * 2 * 64 * 2)
  })

  it("gives a hybrid full and sliding tables per segment and one state slot for all recurrent layers", () => {
    const kinds: Array<LayerKind> = ["state", "sliding", "full", "state", "sliding", "full"]
    const layout: KvLayout = makeKvLayout(specOf(kinds), dropAt(2), {
      pageSize: 64,
      kvElementBytes: 2,
      carryElementBytes: 2,
    })
    expect(layout.segments).toEqual([
      { firstLayer: 0, lastLayer: 2, full: 0, sliding: 1, carry: 4 },
      { firstLayer: 3, lastLayer: 5, full: 2, sliding: 3, carry: -1 },
    ])
    expect(layout.tables.map(({ window }) => window)).toEqual([0, 512, 0, 512, 0])
    // States of 4 × 16 × 32 in f32; three columns of 2 × 2 × 16 + 4 × 32 in 16 bits; up to 256.
    expect(layout.stateSlotBytes).toBe(2 * (8192 + 3 * 192 * 2 + 128))
    const wide = makeKvLayout(specOf(kinds), dropAt(2), { pageSize: 64, kvElementBytes: 2, carryElementBytes: 4 })
    expect(wide.stateSlotBytes).toBe(2 * (8192 + 3 * 192 * 4))
  })

  it("goes to the native library as JSON", () => {
    const layout = makeKvLayout(specOf(["state", "full", "sliding", "full"]), dropAt(1), {
      pageSize: 64,
      kvElementBytes: 2,
      carryElementBytes: 4,
    })
    expect(JSON.parse(layoutJson(layout))).toEqual({
      pageSize: 64,
      slabBytes: 64 * 2 * 2 * 64 * 2,
      layersPerSlab: 1,
      stateSlotBytes: 10_496,
      segments: [
        { firstLayer: 0, lastLayer: 1, full: 0, sliding: -1, carry: 3 },
        { firstLayer: 2, lastLayer: 3, full: 1, sliding: 2, carry: -1 },
      ],
      tables: [
        { segment: 0, kind: "full", layers: [1], window: 0, slabsPerPage: 1 },
        { segment: 1, kind: "full", layers: [3], window: 0, slabsPerPage: 1 },
        { segment: 1, kind: "sliding", layers: [2], window: 512, slabsPerPage: 1 },
        { segment: 0, kind: "carry", layers: [], window: 0, slabsPerPage: 2 },
      ],
    })
  })

  it("refuses a model that keeps no K and V", () => {
    const make = () =>
      makeKvLayout(specOf(["state", "state"]), denseSchedule, { pageSize: 64, kvElementBytes: 2, carryElementBytes: 4 })
    expect(make).toThrow("the model has no attention layer")
  })

  it.each([0, -64, 96, 32])("refuses a page of %i rows", (pageSize) => {
    const make = () =>
      makeKvLayout(specOf(["full"]), denseSchedule, { pageSize, kvElementBytes: 2, carryElementBytes: 4 })
    expect(make).toThrow(`page size must be a multiple of 64, got ${pageSize}`)
  })
})
