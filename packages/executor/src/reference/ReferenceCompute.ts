import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { KvLayout, Segment } from "@uniprefill/model/KvLayout"
import { bitmapWords, blockCount, selectBlocks } from "@uniprefill/model/Selection"
import { massesToFixedPoint } from "./FixedPoint.ts"
import {
  attend,
  attentionWeights,
  embed,
  finishLayer,
  referenceAttention,
  referenceLayer,
  type ReferenceModel,
  project,
  recur,
  rmsNorm,
  rotate,
} from "./ReferenceModel.ts"
import type { Item } from "../contract/PlanBooks.ts"
import type { SlotBooks } from "../contract/SlotBooks.ts"
import type { StateBooks } from "../contract/StateBooks.ts"
import type { SlabMemory } from "./SlabMemory.ts"
import type { StateMemory } from "./StateMemory.ts"

export interface SelectionMade {
  readonly segment: number
  readonly bitmap: Uint32Array
  readonly fallback: boolean
  readonly replayed: boolean
}

interface Home {
  readonly table: number
  /** Index of the layer among the table's. */
  readonly index: number
  readonly segment: number
}

/**
 * Where rows end that pass a segment's layers: behind them all; at a drop layer that a selection follows, which writes K
 * and V of every row while the row itself goes to the carry; or behind them all with the carry written on the way.
 */
type Passage = "through" | "carry" | "through and carry"

/**
 * Rows through layers, with K, V and carry in slabs. Select, then attend: a segment ends with K and V of its drop layer
 * for every row, the next one begins with that layer's attention for the rows kept.
 *
 * Requires: plans checked by applyPlan. Mutates: memory, states and the slots' progress.
 */
export class ReferenceCompute {
  private readonly model: ReferenceModel
  private readonly layout: KvLayout
  private readonly schedule: DropSchedule
  private readonly memory: SlabMemory
  private readonly states: StateMemory
  private readonly books: StateBooks
  /** Where each layer's K and V live; null for recurrent layers. */
  private readonly homes: ReadonlyArray<Home | null>

  constructor(
    model: ReferenceModel,
    layout: KvLayout,
    schedule: DropSchedule,
    memory: SlabMemory,
    states: StateMemory,
    books: StateBooks,
  ) {
    this.model = model
    this.layout = layout
    this.schedule = schedule
    this.memory = memory
    this.states = states
    this.books = books
    this.homes = model.spec.layers.map((_, layer) => {
      const table = layout.tables.findIndex(({ layers }) => layers.includes(layer))
      if (table < 0) return null
      const { layers, segment } = layout.tables[table]!
      return { table, index: layers.indexOf(layer), segment }
    })
  }

  /** Computes an item; the residual rows of the last segment it passes, and the selections on the way. */
  item(
    slot: SlotBooks,
    item: Item,
  ): { readonly rows: ReadonlyArray<Float64Array>; readonly selections: Array<SelectionMade> } {
    const last = this.layout.segments.length - 1
    const selections: Array<SelectionMade> = []
    let rows: Array<Float64Array> = []
    if (!slot.drops) {
      rows = this.embedRows(slot, item.firstRow, item.rows)
      for (let segment = 0; segment <= last; segment++) {
        rows = this.layers(slot, segment, item.firstRow, rows, "through")
      }
      return { rows, selections }
    }
    for (let segment = item.firstSegment; segment <= item.lastSegment; segment++) {
      const first = segment === item.firstSegment ? item.firstRow : 0
      const count = segment === item.firstSegment ? item.rows : slot.prefillRows(segment)
      rows = segment === 0 ? this.embedRows(slot, first, count) : this.entryRows(slot, segment, first, count)
      rows = this.layers(slot, segment, first, rows, segment < last ? "carry" : "through")
      slot.computed[segment] = first + count
      if (segment < last && slot.computed[segment] === slot.prefillRows(segment))
        selections.push(this.select(slot, segment))
    }
    return { rows, selections }
  }

  /** One decode row through every layer: the residual row. */
  decodeRow(slot: SlotBooks): Float64Array {
    let rows = [embed(this.model, slot.nextToken)]
    const cached = slot.decodeCarryTable(this.layout) >= 0
    for (let segment = 0; segment < this.layout.segments.length; segment++) {
      const passage = segment === 0 && cached ? "through and carry" : "through"
      rows = this.layers(slot, segment, slot.prefillRows(segment) + slot.decoded, rows, passage)
    }
    slot.decoded++
    return rows[0]!
  }

  private embedRows(slot: SlotBooks, first: number, count: number): Array<Float64Array> {
    return Array.from(slot.content.tokens.subarray(first, first + count), (token) => embed(this.model, token))
  }

  /** Input rows of segment i > 0: carry i − 1 through the kept index, then the drop layer for those rows. */
  private entryRows(slot: SlotBooks, segment: number, first: number, count: number): Array<Float64Array> {
    const { spec } = this.model
    const before = this.layout.segments[segment - 1]!
    const layer = this.model.layers[before.lastLayer]!
    const { source } = slot.kept[segment]!
    const { keys, values } = this.gather(slot, before.lastLayer, slot.prefillRows(segment - 1))
    return Array.from({ length: count }, (_, i) => {
      const row = first + i
      const previous = row < source.length ? source[row]! : slot.keptRows(segment - 1) + row - source.length
      const carry = this.readCarry(slot, before, previous)
      const query = this.queryOf(before.lastLayer, carry, slot.positionOf(segment, row))
      return finishLayer(spec, layer, carry, attend(spec, query, keys, values, 0, previous))
    })
  }

  /** Rows through a segment's own layers, written to its tables as rows first … of it. */
  private layers(
    slot: SlotBooks,
    index: number,
    first: number,
    input: Array<Float64Array>,
    passage: Passage,
  ): Array<Float64Array> {
    const { spec } = this.model
    const segment = this.layout.segments[index]!
    let rows = input
    for (let l = segment.firstLayer; l <= segment.lastLayer; l++) {
      const layer = this.model.layers[l]!
      const normed = rows.map((row) => rmsNorm(spec, row, layer.inputNorm))
      const home = this.homes[l]!
      if (home === null) {
        const state = this.states.of(slot.stateSlot, l)
        rows = rows.map((row, i) => finishLayer(spec, layer, row, recur(layer, normed[i]!, state)))
        continue
      }
      for (const [i, row] of normed.entries()) {
        const key = rotate(spec, project(layer.k, row), slot.positionOf(index, first + i))
        this.writeKv(slot, home, first + i, key, project(layer.v, row))
      }
      if (passage !== "through" && l === segment.lastLayer) {
        for (const [i, row] of rows.entries()) this.writeCarry(slot, segment, first + i, row)
        if (passage === "carry") break
      }
      const { keys, values } = this.gather(slot, l, first + rows.length)
      rows = rows.map((row, i) => {
        const query = rotate(spec, project(layer.q, normed[i]!), slot.positionOf(index, first + i))
        const lo = this.firstVisible(slot, l, index, first + i)
        return finishLayer(spec, layer, row, attend(spec, query, keys, values, lo, first + i))
      })
    }
    if (this.layout.stateSlotBytes > 0) this.books.absorbed[slot.stateSlot]![index]! += rows.length
    return rows
  }

  private firstVisible(slot: SlotBooks, layer: number, segment: number, row: number): number {
    const { kind, window } = referenceLayer(this.model.spec, layer)
    if (kind !== "sliding") return 0
    return this.schedule.windowBy === "kept" ? Math.max(0, row - window + 1) : slot.firstWithin(segment, row, window)
  }

  /** Chooses S_{segment + 1}, or applies the set already known. */
  private select(slot: SlotBooks, segment: number): SelectionMade {
    slot.selected = segment + 1
    const known = slot.kept[segment + 1]?.bitmap
    if (known) return { segment, bitmap: known, fallback: false, replayed: true }
    const shape = slot.shapeOf(segment, this.schedule)
    const masses = this.score(slot, segment)
    const fallback = masses === null
    const bitmap = fallback
      ? keepAll(blockCount(shape), bitmapWords(shape))
      : selectBlocks(masses, slot.content.pQ32![segment]!, this.schedule.rule, shape)
    slot.addSet(bitmap, this.schedule)
    return { segment, bitmap, fallback, replayed: false }
  }

  /** Mass of every block under the last prompt queries, or null when a score is not finite. */
  private score(slot: SlotBooks, segment: number): Array<bigint> | null {
    const { spec } = this.model
    const { block, lastQ } = this.schedule
    const { lastLayer } = this.layout.segments[segment]!
    const rows = slot.keptRows(segment)
    const { keys } = this.gather(slot, lastLayer, rows)
    const masses = Array.from(
      { length: referenceAttention(spec).heads },
      () => new Float64Array(Math.ceil(rows / block)),
    )
    for (let row = Math.max(0, rows - lastQ); row < rows; row++) {
      const carry = this.readCarry(slot, this.layout.segments[segment]!, row)
      const query = this.queryOf(lastLayer, carry, slot.positionOf(segment, row))
      for (const [head, mass] of masses.entries()) {
        const weights = attentionWeights(spec, query, head, keys, 0, row)
        for (let j = 0; j <= row; j++) mass[Math.floor(j / block)]! += weights[j]!
      }
    }
    return masses.every((mass) => mass.every(Number.isFinite)) ? massesToFixedPoint(masses) : null
  }

  private queryOf(layer: number, row: Float64Array, position: number): Float64Array {
    const { spec, layers } = this.model
    return rotate(spec, project(layers[layer]!.q, rmsNorm(spec, row, layers[layer]!.inputNorm)), position)
  }

  /** Keys and values of a layer for rows 0 … end − 1; rows of pages given back are NaN. */
  private gather(slot: SlotBooks, layer: number, end: number): { keys: Float64Array; values: Float64Array } {
    const { kvHeads, headDim } = referenceAttention(this.model.spec)
    const width = kvHeads * headDim
    const home = this.homes[layer]!
    const first = slot.tables[home.table]!.freedPages * this.layout.pageSize
    const keys = new Float64Array(end * width).fill(NaN)
    const values = new Float64Array(end * width).fill(NaN)
    for (let row = first; row < end; row++) {
      const [slab, offset] = this.kvAddress(slot, home, row)
      keys.set(this.memory.read(slab, offset, width), row * width)
      values.set(this.memory.read(slab, offset + width, width), row * width)
    }
    return { keys, values }
  }

  private writeKv(slot: SlotBooks, home: Home, row: number, key: Float64Array, value: Float64Array): void {
    const [slab, offset] = this.kvAddress(slot, home, row)
    this.memory.write(slab, offset, key)
    this.memory.write(slab, offset + key.length, value)
  }

  /** A slab holds layersPerSlab layers × pageSize rows × (K, V). */
  private kvAddress(slot: SlotBooks, { table, index }: Home, row: number): [slab: number, offset: number] {
    const { pageSize, layersPerSlab, tables } = this.layout
    const { kvHeads, headDim } = referenceAttention(this.model.spec)
    const { slabs, freedPages } = slot.tables[table]!
    const page = Math.floor(row / pageSize) - freedPages
    const slab = slabs[page * tables[table]!.slabsPerPage + Math.floor(index / layersPerSlab)]!
    return [slab, ((index % layersPerSlab) * pageSize + (row % pageSize)) * 2 * kvHeads * headDim]
  }

  private readCarry(slot: SlotBooks, segment: Segment, row: number): Float64Array {
    const carry = new Float64Array(this.model.spec.hiddenSize)
    this.eachCarryPiece(slot, segment, row, (slab, offset, at, count) => {
      carry.set(this.memory.read(slab, offset, count), at)
    })
    return carry
  }

  private writeCarry(slot: SlotBooks, segment: Segment, row: number, values: Float64Array): void {
    this.eachCarryPiece(slot, segment, row, (slab, offset, at, count) => {
      this.memory.write(slab, offset, values.subarray(at, at + count))
    })
  }

  /** Carry rows follow one another through a page's slabs, so that a row may lie in two of them. */
  private eachCarryPiece(
    slot: SlotBooks,
    segment: Segment,
    row: number,
    visit: (slab: number, offset: number, at: number, count: number) => void,
  ): void {
    const { pageSize, tables } = this.layout
    const { hiddenSize } = this.model.spec
    const { slabs, freedPages } = slot.tables[segment.carry]!
    const firstSlab = (Math.floor(row / pageSize) - freedPages) * tables[segment.carry]!.slabsPerPage
    const start = (row % pageSize) * hiddenSize
    for (let at = 0; at < hiddenSize;) {
      const slab = Math.floor((start + at) / this.memory.size)
      const offset = (start + at) % this.memory.size
      const count = Math.min(hiddenSize - at, this.memory.size - offset)
      visit(slabs[firstSlab + slab]!, offset, at, count)
      at += count
    }
  }
}

const keepAll = (blocks: number, words: number): Uint32Array => {
  const bitmap = new Uint32Array(words)
  for (let block = 0; block < blocks; block++) bitmap[block >>> 5]! |= 1 << (block & 31)
  return bitmap
}
