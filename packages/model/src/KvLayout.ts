import { ceilDiv, gcd } from "@uniprefill/units/Units"
import type { DropSchedule } from "./DropSchedule.ts"
import type { LayerKind, ModelSpec } from "./ModelSpec.ts"

/**
 * How a model under a drop schedule lays out its memory: segments, the tables of a slot, and the one slab size that all
 * tables share.
 *
 * Segment i covers the layers whose K/V hold exactly the rows S_i. With drop layers d₁ < … < d_K:
 *
 *     segment 0: layers 0 … d₁      segment i: layers dᵢ+1 … dᵢ₊₁      segment K: layers d_K+1 … last
 *
 * A drop layer's own K/V belong to the segment before its selection.
 *
 * A slab holds `pageSize` rows of K and V of `layersPerSlab` layers. A page of a table with L layers is
 * L / layersPerSlab slabs. Carry rows (the residual stream at the input of a drop layer) live in slabs too.
 */
export interface KvLayout {
  readonly pageSize: number
  readonly slabBytes: number
  readonly layersPerSlab: number
  readonly segments: ReadonlyArray<Segment>
  /** A slot's page tables: segment by segment full before sliding, then the carries. */
  readonly tables: ReadonlyArray<Table>
  /** Bytes of one state slot: every layer of kind `state`; 0 without such layers. */
  readonly stateSlotBytes: number
}

export interface Segment {
  readonly firstLayer: number
  readonly lastLayer: number
  /** Index of the segment's table of each kind in `tables`, or −1. */
  readonly full: number
  readonly sliding: number
  readonly carry: number
}

export interface Table {
  readonly segment: number
  readonly kind: "full" | "sliding" | "carry"
  /** Layers whose K/V the table holds; empty for a carry. */
  readonly layers: ReadonlyArray<number>
  /** Rows a sliding layer sees; 0 for other kinds. */
  readonly window: number
  readonly slabsPerPage: number
  /** Bytes of a page's slabs that hold nothing. */
  readonly wastedBytesPerPage: number
}

export interface KvLayoutOptions {
  /** Rows of a page: a multiple of the schedule's block. */
  readonly pageSize: number
  /** Bytes of one element of K or V. */
  readonly kvElementBytes: number
  /** Bytes of one element of the residual stream. */
  readonly carryElementBytes: number
}

/** Fails with RangeError when the page size is not a positive multiple of 64. */
export const makeKvLayout = (spec: ModelSpec, schedule: DropSchedule, options: KvLayoutOptions): KvLayout => {
  const { pageSize, kvElementBytes, carryElementBytes } = options
  if (pageSize <= 0 || pageSize % 64 !== 0) throw new RangeError(`page size must be a multiple of 64, got ${pageSize}`)
  const rowBytes = 2 * spec.kvHeads * spec.headDim * kvElementBytes
  const carryRowBytes = spec.hiddenSize * carryElementBytes

  const starts = [0, ...schedule.dropLayers.map((drop) => drop.layer + 1)]
  const ranges = starts.map((firstLayer, i) => ({
    firstLayer,
    lastLayer: (starts[i + 1] ?? spec.layers.length) - 1,
  }))
  const layersOf = (range: { firstLayer: number; lastLayer: number }, kind: LayerKind) =>
    spec.layers.flatMap((layer, index) =>
      layer.kind === kind && index >= range.firstLayer && index <= range.lastLayer ? [index] : [],
    )

  const drafts: Array<{ segment: number; kind: Table["kind"]; layers: Array<number>; window: number }> = []
  for (const [segment, range] of ranges.entries()) {
    for (const kind of ["full", "sliding"] as const) {
      const layers = layersOf(range, kind)
      if (layers.length > 0) {
        drafts.push({ segment, kind, layers, window: Math.max(...layers.map((l) => spec.layers[l]!.window)) })
      }
    }
  }
  const carryCount = schedule.dropLayers.length
  for (let segment = 0; segment < carryCount; segment++) drafts.push({ segment, kind: "carry", layers: [], window: 0 })

  let layersPerSlab = drafts.reduce((divisor, draft) => gcd(divisor, draft.layers.length), 0)
  if (carryCount > 0 && carryRowBytes % rowBytes === 0) layersPerSlab = gcd(layersPerSlab, carryRowBytes / rowBytes)
  const slabBytes = pageSize * layersPerSlab * rowBytes

  const tables = drafts.map((draft): Table => {
    const pageBytes = pageSize * (draft.kind === "carry" ? carryRowBytes : draft.layers.length * rowBytes)
    const slabsPerPage = ceilDiv(pageBytes, slabBytes)
    return { ...draft, slabsPerPage, wastedBytesPerPage: slabsPerPage * slabBytes - pageBytes }
  })
  const find = (segment: number, kind: Table["kind"]) =>
    tables.findIndex((table) => table.segment === segment && table.kind === kind)
  return {
    pageSize,
    slabBytes,
    layersPerSlab,
    segments: ranges.map((range, segment) => ({
      ...range,
      full: find(segment, "full"),
      sliding: find(segment, "sliding"),
      carry: find(segment, "carry"),
    })),
    tables,
    stateSlotBytes: spec.layers.filter((layer) => layer.kind === "state").length * spec.stateBytesPerLayer,
  }
}

/** Index of the last segment. */
export const lastSegment = (layout: KvLayout): number => layout.segments.length - 1
