import type { DecodeClock } from "./DecodeClock.ts"
import type { TokenClock } from "./TokenPlaces.ts"

/**
 * How far a request is: the sets decided, the rows computed, the output. Moved ahead when a step is planned, and confirmed
 * when it commits.
 */
export class Progress {
  /** The segment being computed, or the last one. A request that does not drop passes all segments at once: 0. */
  segment = 0
  /** Rows of that segment that planned steps have computed. */
  computedRows = 0
  /** |S_i| for every set decided so far; [0] is the prompt's length. */
  readonly keptRows: Array<number>
  /** Bitmap of each decided selection. */
  readonly bitmaps: Array<Uint32Array> = []
  /** Output tokens that the slot was opened with: rows that follow the kept rows of every set. */
  replayedOutputs = 0
  /** While it decodes: what counts its rows, less those counted before it joined. */
  private clock: DecodeClock | null = null
  private clockOffset = 0
  /** Decode rows, and outputs, of before. */
  private ownRows = 0
  private ownOutputs = 0
  /** While every result has a token of it: what counts the results, less those before. And the tokens committed before. */
  private results: TokenClock | null = null
  private resultsBefore = 0
  private committed = 0

  constructor(promptLength: number) {
    this.keptRows = [promptLength]
  }

  /** |S_i|; the last known set stands in for those not decided yet (sets are nested: an upper bound). */
  rowsOf(segment: number): number {
    return this.keptRows[Math.min(segment, this.keptRows.length - 1)]!
  }

  /** Decode rows planned since the slot was opened. */
  get decodeRows(): number {
    return this.ownRows + this.clockRows
  }

  /** Output tokens committed or sampled by a step in flight. */
  get plannedOutputs(): number {
    return this.ownOutputs + this.clockRows
  }

  /** Output tokens committed. */
  get outputs(): number {
    return this.results === null ? this.committed : this.committed + this.results.results - this.resultsBefore
  }

  /** From the next result on every one has a token. */
  getTokens(clock: TokenClock): void {
    this.results = clock
    this.resultsBefore = clock.results
  }

  /** Results have no tokens any more, but for those that {@link getToken} is told of. */
  getNoTokens(): void {
    this.committed = this.outputs
    this.results = null
  }

  getToken(): void {
    this.committed++
  }

  private get clockRows(): number {
    return this.clock === null ? 0 : this.clock.rows - this.clockOffset
  }

  /** The first token is planned, with the prompt's last row. */
  planFirst(): void {
    this.ownOutputs++
  }

  /** Every row that the clock counts from here on is one of its own, and samples a token. */
  join(clock: DecodeClock): void {
    this.clock = clock
    this.clockOffset = clock.rows
  }

  leave(): void {
    const rows = this.clockRows
    this.ownRows += rows
    this.ownOutputs += rows
    this.clock = null
  }

  /** Rows that prefill computes in a segment: the kept rows and the replayed output. */
  prefillRows(segment: number): number {
    return this.rowsOf(segment) + this.replayedOutputs
  }

  /** Rows of a segment's tables that output is appended to, with those of planned decode rows. */
  tableRows(segment: number): number {
    return this.prefillRows(segment) + this.decodeRows
  }

  /** Everything is computed again, output included; what was decided stays. */
  restart(): void {
    this.segment = 0
    this.computedRows = 0
    this.replayedOutputs = this.outputs
    this.ownOutputs = this.outputs
    this.ownRows = 0
  }

  /** Takes over what another answer to the same prompt has decided. */
  adopt(leader: Progress): void {
    this.segment = leader.segment
    this.keptRows.splice(0, this.keptRows.length, ...leader.keptRows)
    this.bitmaps.splice(0, this.bitmaps.length, ...leader.bitmaps)
  }
}
