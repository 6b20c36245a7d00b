import { denseSchedule, type DropSchedule } from "@uniprefill/model/DropSchedule"
import { type KvLayout, lastSegment, makeKvLayout } from "@uniprefill/model/KvLayout"
import type { LayerKind, ModelSpec } from "@uniprefill/model/ModelSpec"
import fc from "fast-check"
import { describe, expect, it } from "vitest"

const specOf = (kinds: ReadonlyArray<LayerKind>, change: Partial<ModelSpec> = {}): ModelSpec => ({
  architecture: "Test",
  hiddenSize: 256,
  intermediateSize: 640,
  vocabSize: 100,
  maxPositions: 4096,
  heads: 4,
  kvHeads: 2,
  headDim: 64,
  attentionScale: 0.125,
  attentionSoftCap: 0,
  normEps: 1e-5,
  tieWordEmbeddings: true,
  attentionBias: false,
  mlpBias: false,
  rope: { theta: 1e4, scaling: { type: "none" } },
  layers: kinds.map((kind) => ({ kind, window: kind === "sliding" ? 512 : 0 })),
  stateBytesPerLayer: kinds.includes("state") ? 4096 : 0,
  eosTokenIds: [1],
  ...change,
})

const dropAt = (...layers: ReadonlyArray<number>): DropSchedule => ({
  ...denseSchedule,
  dropLayers: layers.map((layer) => ({ layer, p: 0.9 })),
})

const models = fc
  .record({
    kinds: fc.array(fc.constantFrom<LayerKind>("full", "sliding", "state"), { minLength: 1, maxLength: 40 }),
    kvHeads: fc.constantFrom(1, 2, 8),
    headDim: fc.constantFrom(64, 80, 128),
    hiddenSize: fc.constantFrom(256, 640, 4096),
    drops: fc.array(fc.boolean(), { minLength: 40, maxLength: 40 }),
    pageSize: fc.constantFrom(64, 128, 256),
    kvElementBytes: fc.constantFrom(1, 2),
    carryElementBytes: fc.constantFrom(2, 4),
  })
  .map(({ kinds, kvHeads, headDim, hiddenSize, drops, ...options }) => {
    const layers: Array<LayerKind> = ["full", ...kinds]
    const dropLayers = layers.flatMap((kind, i) => (kind === "full" && i < layers.length - 1 && drops[i] ? [i] : []))
    const spec = specOf(layers, { kvHeads, headDim, hiddenSize })
    return { spec, schedule: dropAt(...dropLayers), options }
  })

const carryRowBytes = (spec: ModelSpec, bytes: number) => spec.hiddenSize * bytes
const kvRowBytes = (spec: ModelSpec, bytes: number) => 2 * spec.kvHeads * spec.headDim * bytes

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

  it("puts every attention layer into one table of its segment and kind, and each selection's input into a carry", () => {
    fc.assert(
      fc.property(models, ({ spec, schedule, options }) => {
        const layout = makeKvLayout(spec, schedule, options)
        const seen = layout.tables.flatMap(({ layers }) => layers).toSorted((a, b) => a - b)
        expect(seen).toEqual(spec.layers.flatMap(({ kind }, layer) => (kind === "state" ? [] : [layer])))
        for (const [t, table] of layout.tables.entries()) {
          const segment = layout.segments[table.segment]!
          expect(segment[table.kind]).toBe(t)
          for (const layer of table.layers) {
            expect(spec.layers[layer]!.kind).toBe(table.kind)
            expect(layer).toBeGreaterThanOrEqual(segment.firstLayer)
            expect(layer).toBeLessThanOrEqual(segment.lastLayer)
          }
        }
        const carries = layout.segments.map(({ carry }) => carry >= 0)
        expect(carries).toEqual(layout.segments.map((_, i) => i < lastSegment(layout)))
      }),
    )
  })

  it("gives every page whole slabs that hold its bytes, and wastes less than one slab", () => {
    fc.assert(
      fc.property(models, ({ spec, schedule, options }) => {
        const layout = makeKvLayout(spec, schedule, options)
        const kvRow = kvRowBytes(spec, options.kvElementBytes)
        expect(layout.slabBytes).toBe(options.pageSize * layout.layersPerSlab * kvRow)
        for (const { kind, layers, slabsPerPage, wastedBytesPerPage } of layout.tables) {
          const row = kind === "carry" ? carryRowBytes(spec, options.carryElementBytes) : layers.length * kvRow
          expect(slabsPerPage * layout.slabBytes - wastedBytesPerPage).toBe(options.pageSize * row)
          expect(wastedBytesPerPage).toBeGreaterThanOrEqual(0)
          expect(wastedBytesPerPage).toBeLessThan(layout.slabBytes)
          expect(kind === "carry" || layers.length === slabsPerPage * layout.layersPerSlab).toBe(true)
        }
      }),
    )
  })

  it("takes the largest slab that divides every table, the carry too where it is whole K/V layers", () => {
    fc.assert(
      fc.property(models, ({ spec, schedule, options }) => {
        const layout = makeKvLayout(spec, schedule, options)
        const counts = layout.tables.flatMap(({ layers }) => (layers.length > 0 ? [layers.length] : []))
        const carry = carryRowBytes(spec, options.carryElementBytes) / kvRowBytes(spec, options.kvElementBytes)
        if (schedule.dropLayers.length > 0 && Number.isInteger(carry)) counts.push(carry)
        const divides = (g: number) => counts.every((count) => count % g === 0)
        expect(divides(layout.layersPerSlab)).toBe(true)
        for (let larger = layout.layersPerSlab + 1; larger <= Math.min(...counts); larger++)
          expect(divides(larger)).toBe(false)
      }),
    )
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
    expect(layout.stateSlotBytes).toBe(2 * 4096)
  })

  it.each([0, -64, 96, 32])("refuses a page of %i rows", (pageSize) => {
    const make = () =>
      makeKvLayout(specOf(["full"]), denseSchedule, { pageSize, kvElementBytes: 2, carryElementBytes: 4 })
    expect(make).toThrow(`page size must be a multiple of 64, got ${pageSize}`)
  })
})
