import type { KvLayout } from "@uniprefill/model/KvLayout"
import { WindowKeys } from "./WindowKeys.ts"

/** Rows that each segment's sliding layers see, the most where they differ; 0 without such layers. */
export const windowsOf = ({ segments, tables }: KvLayout): ReadonlyArray<number> =>
  segments.map((_, segment) =>
    tables.reduce((most, table) => Math.max(most, table.segment === segment ? table.window : 0), 0),
  )

/**
 * The work of one step in the terms that its time depends on, per segment. Sums of integers, so that adding a piece and
 * taking it away again leaves exactly what was there.
 */
export class StepLoad {
  /** Rows that decode: each passes every layer. */
  decodeRows = 0
  /** Keys that decode rows see in the segment's full-attention layers, summed over rows. */
  readonly decodeKeys: Float64Array
  /** Keys that they see in its sliding layers: no more than the window for each row. */
  readonly decodeWindowKeys: Float64Array
  /** Prefill rows that pass the segment's layers. */
  readonly rows: Float64Array
  /** (query, key) pairs of those rows in the segment's own full-attention layers. */
  readonly pairs: Float64Array
  /** Pairs of those rows in the segment's sliding layers. */
  readonly windowPairs: Float64Array
  /** Pairs at the drop layer through which the rows enter the segment; 0 for segment 0. */
  readonly entryPairs: Float64Array
  /** Rows scored by the selection after the segment. */
  readonly scoredRows: Float64Array
  /** Selections after the segment, one for each prompt that ends there. */
  readonly selections: Float64Array
  /** Prefill items. 0 says that there is no prefill at all: the other sums but those of decoding are 0 then. */
  items = 0
  /** Prefill rows, each counted once however many segments it passes in one go without a selection. */
  tokens = 0
  private readonly windows: ReadonlyArray<number>
  private readonly growing: ReadonlyArray<WindowKeys>

  /** `windows`: of the segments' sliding layers ({@link windowsOf}); none where the model has none. */
  constructor(segments: number, windows: ReadonlyArray<number> = []) {
    this.windows = windows.some((window) => window > 0) ? windows : []
    this.growing = this.windows.map((window) => new WindowKeys(window))
    this.decodeKeys = new Float64Array(segments)
    this.decodeWindowKeys = new Float64Array(segments)
    this.windowPairs = new Float64Array(segments)
    this.rows = new Float64Array(segments)
    this.pairs = new Float64Array(segments)
    this.entryPairs = new Float64Array(segments)
    this.scoredRows = new Float64Array(segments)
    this.selections = new Float64Array(segments)
  }

  /** A row joins those that decode, with the keys that it sees of a segment. */
  joinDecode(segment: number, keys: number): void {
    this.decodeKeys[segment]! += keys
    if (this.windows.length === 0) return
    const growing = this.growing[segment]!
    growing.join(keys)
    this.decodeWindowKeys[segment] = growing.sum
  }

  /** A row that joined leaves, with the keys that it sees by now. */
  leaveDecode(segment: number, keys: number): void {
    this.decodeKeys[segment]! -= keys
    if (this.windows.length === 0) return
    const growing = this.growing[segment]!
    growing.leave(keys)
    this.decodeWindowKeys[segment] = growing.sum
  }

  /** Each of `rows` rows that decode sees one key more. */
  advanceDecodes(rows: number): void {
    const { decodeKeys, growing } = this
    for (let s = 0; s < decodeKeys.length; s++) decodeKeys[s]! += rows
    for (let s = 0; s < growing.length; s++) {
      growing[s]!.advance()
      this.decodeWindowKeys[s] = growing[s]!.sum
    }
  }

  /** Adds what `rows` rows that decode see of a segment when each sees `keys`: for loads that are made anew each time. */
  addDecodes(segment: number, rows: number, keys: number): void {
    this.decodeKeys[segment]! += rows * keys
    if (this.windows.length > 0) this.decodeWindowKeys[segment]! += rows * Math.min(keys, this.windows[segment]!)
  }

  /** Of a load that {@link addDecodes} or {@link assign} made. */
  clearDecodes(): void {
    this.decodeRows = 0
    for (let s = 0; s < this.decodeKeys.length; s++) {
      this.decodeKeys[s] = 0
      this.decodeWindowKeys[s] = 0
    }
  }

  clearPrefill(): void {
    if (this.items === 0) return
    const { rows, pairs, windowPairs, entryPairs, scoredRows, selections } = this
    this.items = 0
    this.tokens = 0
    // A few elements: four calls to fill would cost more than the loop.
    for (let s = 0; s < rows.length; s++) {
      rows[s] = 0
      pairs[s] = 0
      windowPairs[s] = 0
      entryPairs[s] = 0
      scoredRows[s] = 0
      selections[s] = 0
    }
  }

  /** Becomes a copy of another. Requires as many segments. */
  assign(other: StepLoad): void {
    this.clearPrefill()
    this.clearDecodes()
    this.add(other)
  }

  /** Adds (`sign` 1) or takes away (−1) the selection that a prompt of so many rows makes after a segment. */
  addSelection(sign: 1 | -1, segment: number, rows: number): void {
    this.scoredRows[segment]! += sign * rows
    this.selections[segment]! += sign
  }

  /** Adds a whole step's work to this: what many steps held together. Requires as many segments. */
  add(other: StepLoad): void {
    const { decodeKeys, decodeWindowKeys, rows, pairs, windowPairs, entryPairs, scoredRows, selections } = this
    this.decodeRows += other.decodeRows
    for (let s = 0; s < decodeKeys.length; s++) {
      decodeKeys[s]! += other.decodeKeys[s]!
      decodeWindowKeys[s]! += other.decodeWindowKeys[s]!
    }
    if (other.items === 0) return
    this.items += other.items
    this.tokens += other.tokens
    for (let s = 0; s < rows.length; s++) {
      rows[s]! += other.rows[s]!
      pairs[s]! += other.pairs[s]!
      windowPairs[s]! += other.windowPairs[s]!
      entryPairs[s]! += other.entryPairs[s]!
      scoredRows[s]! += other.scoredRows[s]!
      selections[s]! += other.selections[s]!
    }
  }

  /**
   * Adds (`sign` 1) or takes away (−1) rows first … first + rows − 1 of a segment. `previousRows` is how many rows the
   * set before it has, `ownRows` how many this one has: at the entry layer a row sees its share of the previous set.
   * Counts no `tokens`.
   */
  addRows(sign: 1 | -1, segment: number, first: number, rows: number, ownRows: number, previousRows: number): void {
    const pairs = rows * first + (rows * (rows + 1)) / 2
    this.rows[segment]! += sign * rows
    this.pairs[segment]! += sign * pairs
    if (this.windows.length > 0) this.windowPairs[segment]! += sign * pairsWithin(this.windows[segment]!, first, rows)
    if (segment > 0) this.entryPairs[segment]! += sign * Math.floor((pairs * previousRows) / Math.max(1, ownRows))
  }
}

/** (query, key) pairs of rows first … first + rows − 1 when each sees at most `window` rows, itself included. */
const pairsWithin = (window: number, first: number, rows: number): number => {
  const growing = Math.max(0, Math.min(rows, window - first))
  return growing * first + (growing * (growing + 1)) / 2 + (rows - growing) * window
}
