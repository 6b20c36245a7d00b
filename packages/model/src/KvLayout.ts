import { ceilDiv, gcd } from "@uniprefill/units/Units"
import type { DropSchedule } from "./DropSchedule.ts"
import { attentionOf, deltaStateBytes, kvWidth, type MixerSpec, type ModelSpec } from "./ModelSpec.ts"

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
 *
 * Layers of one segment and kind whose rows differ in size have tables of their own. A slab then holds as many layers of
 * each as fit, at least one.
 */
export interface KvLayout {
  readonly pageSize: number
  readonly slabBytes: number
  /** Of the tables with the largest rows. */
  readonly layersPerSlab: number
  readonly segments: ReadonlyArray<Segment>
  /** A slot's page tables: segment by segment full before sliding, then the carries. */
  readonly tables: ReadonlyArray<Table>
  /** Bytes of one state slot: every recurrent layer; 0 without such layers. */
  readonly stateSlotBytes: number
}

export interface Segment {
  readonly firstLayer: number
  readonly lastLayer: number
  /** Index of the segment's first table of each kind in `tables`, or −1. */
  readonly full: number
  readonly sliding: number
  readonly carry: number
}

export interface Table {
  readonly segment: number
  readonly kind: "full" | "sliding" | "carry"
  /** Layers whose K/V the table holds, ascending; empty for a carry. Slab j of a page holds `layersPerSlab` of them. */
  readonly layers: ReadonlyArray<number>
  /** Rows a sliding layer sees; 0 for other kinds. */
  readonly window: number
  readonly slabsPerPage: number
  /** Layers in a slab where these are not the layout's: rows of another size. */
  readonly layersPerSlab?: number | undefined
  /** Bytes of a page's slabs that hold nothing. */
  readonly wastedBytesPerPage: number
}

export interface KvLayoutOptions {
  /** Rows of a page: a multiple of the schedule's block. */
  readonly pageSize: number
  /** Bytes of one element of K or V. */
  readonly kvElementBytes: number
  /** Bytes of one element of the residual stream, and of a convolution's inputs. */
  readonly carryElementBytes: number
}

/** A table before slabs: rows of one size. */
interface Draft {
  readonly segment: number
  readonly kind: Table["kind"]
  readonly layers: Array<number>
  window: number
  /** Bytes of a row of one layer; of a carry, of the row. */
  readonly rowBytes: number
}

/** Fails with RangeError when the page size is not a positive multiple of 64, and for a model without attention. */
export const makeKvLayout = (spec: ModelSpec, schedule: DropSchedule, options: KvLayoutOptions): KvLayout => {
  const { pageSize, kvElementBytes, carryElementBytes } = options
  if (pageSize <= 0 || pageSize % 64 !== 0) throw new RangeError(`page size must be a multiple of 64, got ${pageSize}`)
  const carryRowBytes = spec.hiddenSize * carryElementBytes

  const starts = [0, ...schedule.dropLayers.map((drop) => drop.layer + 1)]
  const ranges = starts.map((firstLayer, i) => ({
    firstLayer,
    lastLayer: (starts[i + 1] ?? spec.layers.length) - 1,
  }))
  const drafts = ranges.flatMap((range, segment) => draftsOf(spec, segment, range, kvElementBytes))
  if (drafts.length === 0) throw new RangeError("the model has no attention layer: it keeps no K and V")
  const carries = schedule.dropLayers.map((_, segment): Draft => ({
    segment,
    kind: "carry",
    layers: [],
    window: 0,
    rowBytes: carryRowBytes,
  }))
  const { slabRowBytes, layersPerSlab } = slabOf(drafts, carries.length > 0 ? carryRowBytes : 0)
  const slabBytes = pageSize * slabRowBytes

  // Every table an object of one shape: the scheduler reads them in its inner loops.
  const tables = [...drafts, ...carries].map(({ segment, kind, layers, window, rowBytes }): Table => {
    const isCarry = kind === "carry"
    const within = isCarry ? layersPerSlab : Math.floor(slabRowBytes / rowBytes)
    const pageBytes = pageSize * rowBytes * (isCarry ? 1 : layers.length)
    const slabsPerPage = isCarry ? ceilDiv(pageBytes, slabBytes) : ceilDiv(layers.length, within)
    const wastedBytesPerPage = slabsPerPage * slabBytes - pageBytes
    const table = { segment, kind, layers, window, slabsPerPage, wastedBytesPerPage }
    return within === layersPerSlab ? table : { ...table, layersPerSlab: within }
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
    stateSlotBytes: spec.layers.reduce((sum, { mixer }) => sum + stateBytes(mixer, carryElementBytes), 0),
  }
}

const stateBytes = (mixer: MixerSpec, elementBytes: number): number =>
  mixer.kind === "delta" ? deltaStateBytes(mixer, elementBytes) : 0

/** A segment's tables of K/V: full before sliding, in each the row sizes in order of their first layer. */
const draftsOf = (
  spec: ModelSpec,
  segment: number,
  { firstLayer, lastLayer }: { readonly firstLayer: number; readonly lastLayer: number },
  elementBytes: number,
): ReadonlyArray<Draft> => {
  const drafts: Array<Draft> = []
  for (const kind of ["full", "sliding"] as const) {
    for (let layer = firstLayer; layer <= lastLayer; layer++) {
      const attention = attentionOf(spec.layers[layer]!)
      if (attention?.kind !== kind) continue
      const rowBytes = 2 * kvWidth(attention) * elementBytes
      const draft = drafts.find((one) => one.kind === kind && one.rowBytes === rowBytes)
      if (draft === undefined) drafts.push({ segment, kind, layers: [layer], window: attention.window, rowBytes })
      else {
        draft.layers.push(layer)
        draft.window = Math.max(draft.window, attention.window)
      }
    }
  }
  return drafts
}

/**
 * Bytes of one row of a slab, and how many layers with the largest rows it holds: the most that divides every table, and
 * the carry where that is whole layers. Where no such size holds a layer of every table whole, it is the largest rows' own.
 */
const slabOf = (
  drafts: ReadonlyArray<Draft>,
  carryRowBytes: number,
): { readonly slabRowBytes: number; readonly layersPerSlab: number } => {
  const largest = Math.max(...drafts.map(({ rowBytes }) => rowBytes))
  const isWhole = (bytes: number) => bytes > 0 && drafts.every(({ rowBytes }) => bytes % rowBytes === 0)
  const ofTables = drafts.reduce((divisor, { layers, rowBytes }) => gcd(divisor, layers.length * rowBytes), 0)
  const ofLargest = drafts
    .filter(({ rowBytes }) => rowBytes === largest)
    .reduce((divisor, { layers }) => gcd(divisor, layers.length), 0)
  const ofKv = isWhole(ofTables) ? ofTables : ofLargest * largest
  const withCarry = gcd(ofKv, carryRowBytes)
  const slabRowBytes = isWhole(withCarry) ? withCarry : ofKv
  return { slabRowBytes, layersPerSlab: slabRowBytes / largest }
}

/** The JSON that the native library lays its memory out by. */
export const layoutJson = ({
  pageSize,
  slabBytes,
  layersPerSlab,
  stateSlotBytes,
  segments,
  tables,
}: KvLayout): string =>
  JSON.stringify({
    pageSize,
    slabBytes,
    layersPerSlab,
    stateSlotBytes,
    segments,
    tables: tables.map(({ segment, kind, layers, window, slabsPerPage, layersPerSlab: within }) => ({
      segment,
      kind,
      layers,
      window,
      slabsPerPage,
      layersPerSlab: within,
    })),
  })

/** Index of the last segment. */
export const lastSegment = (layout: KvLayout): number => layout.segments.length - 1
