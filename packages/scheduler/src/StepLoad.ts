/**
 * The work of one step in the terms that its time depends on, per segment. Sums of integers, so that adding a piece and
 * taking it away again leaves exactly what was there.
 */
export class StepLoad {
  /** Rows that decode: each passes every layer. */
  decodeRows = 0
  /** Keys that decode rows see in the segment's full-attention layers, summed over rows. */
  readonly decodeKeys: Float64Array
  /** Prefill rows that pass the segment's layers. */
  readonly rows: Float64Array
  /** (query, key) pairs of those rows in the segment's own full-attention layers. */
  readonly pairs: Float64Array
  /** Pairs at the drop layer through which the rows enter the segment; 0 for segment 0. */
  readonly entryPairs: Float64Array
  /** Rows scored by the selection after the segment. */
  readonly scoredRows: Float64Array
  /** Prefill items. 0 says that there is no prefill at all: the other sums but those of decoding are 0 then. */
  items = 0
  /** Prefill rows, each counted once however many segments it passes in one go without a selection. */
  tokens = 0

  constructor(segments: number) {
    this.decodeKeys = new Float64Array(segments)
    this.rows = new Float64Array(segments)
    this.pairs = new Float64Array(segments)
    this.entryPairs = new Float64Array(segments)
    this.scoredRows = new Float64Array(segments)
  }

  clearPrefill(): void {
    if (this.items === 0) return
    const { rows, pairs, entryPairs, scoredRows } = this
    this.items = 0
    this.tokens = 0
    // A few elements: four calls to fill would cost more than the loop.
    for (let s = 0; s < rows.length; s++) {
      rows[s] = 0
      pairs[s] = 0
      entryPairs[s] = 0
      scoredRows[s] = 0
    }
  }

  /** Becomes a copy of another. Requires as many segments. */
  assign(other: StepLoad): void {
    this.clearPrefill()
    this.decodeRows = 0
    for (let s = 0; s < this.decodeKeys.length; s++) this.decodeKeys[s] = 0
    this.add(other)
  }

  /** Adds a whole step's work to this: what many steps held together. Requires as many segments. */
  add(other: StepLoad): void {
    const { decodeKeys, rows, pairs, entryPairs, scoredRows } = this
    this.decodeRows += other.decodeRows
    for (let s = 0; s < decodeKeys.length; s++) decodeKeys[s]! += other.decodeKeys[s]!
    if (other.items === 0) return
    this.items += other.items
    this.tokens += other.tokens
    for (let s = 0; s < rows.length; s++) {
      rows[s]! += other.rows[s]!
      pairs[s]! += other.pairs[s]!
      entryPairs[s]! += other.entryPairs[s]!
      scoredRows[s]! += other.scoredRows[s]!
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
    if (segment > 0) this.entryPairs[segment]! += sign * Math.floor((pairs * previousRows) / Math.max(1, ownRows))
  }
}
