import type { CostModel } from "@uniprefill/scheduler/CostModel"
import { StepLoad } from "@uniprefill/scheduler/StepLoad"
import { assumedShares, type DeviceSpec } from "./DeviceSpec.ts"
import type { OperationWork } from "./OperationWork.ts"
import { RateCurve } from "./RateCurve.ts"

export interface DeviceCosts {
  readonly device: DeviceSpec
  readonly work: ReadonlyArray<OperationWork>
  /** Experts of a layer and how many a row passes; 0 without experts. */
  readonly experts: number
  readonly activeExperts: number
  /** Queries that a selection scores. */
  readonly lastQ: number
  /** Largest number of rows in a step. */
  readonly maxRowsPerStep: number
  /** Launches and everything else that a step takes whatever it holds. */
  readonly stepMicros: number
  /** Added by each prefill item. */
  readonly itemMicros: number
  /** Time of one all-reduce besides its bytes. */
  readonly reductionMicros: number
  /** Multiplies every rate of the device: 1, or what fitting it to a real run gave. */
  readonly efficiency: number
}

/** A part of a step's predicted time. */
export interface StepTerm {
  readonly name: string
  readonly micros: number
}

/** Of a segment's decode rows: time of the matrix products, bytes that are read besides the keys', time of the all-reduces. */
const decodeTerms = 3

/**
 * Step time from a device's measured rates: for each segment the matrix products take the longer of computing and of reading
 * the weights, with decode and prefill rows sharing one reading; the other operations follow one another.
 *
 * A step without rows launches nothing and takes no time.
 *
 * `stepMicros` is for the scheduler's inner loop. `terms` tells the same time part by part; `outside` names what was
 * predicted beyond what was measured.
 */
export class DeviceCostModel implements CostModel {
  readonly costs: DeviceCosts
  private readonly gemm: RateCurve
  private readonly attention: RateCurve
  private readonly efficiency: number
  /** FLOP per µs of attention over the fewest tokens measured: what the recurrence and the scoring are given. */
  private readonly leastAttentionRate: number
  private readonly bytesPerMicro: number
  private readonly decodeKeyBytes: Float64Array
  private readonly linkBytesPerMicro: number
  /** Expected number of distinct experts that r rows pass, for r = 0 … maxRowsPerStep. */
  private readonly distinctExperts: Float64Array
  /**
   * Of steps without prefill, what depends on nothing but the number of decode rows: {@link decodeTerms} numbers for each
   * segment, `[decodeRows][segment][term]`, and whether it is outside of what was measured. For fewer rows than `known`.
   */
  private decodeTimes = new Float64Array()
  private decodesAreOutside = new Uint8Array()
  private known = 0

  constructor(costs: DeviceCosts) {
    const { device } = costs
    this.costs = costs
    this.efficiency = costs.efficiency
    const assumed = (share: number) => [{ at: 1, teraFlops: device.peakTeraFlops * share }]
    this.gemm = new RateCurve(device.calibration?.gemm ?? assumed(assumedShares.gemm))
    this.attention = new RateCurve(device.calibration?.attention ?? assumed(assumedShares.attention))
    this.leastAttentionRate = this.attention.flopsPerMicro(this.attention.from) * costs.efficiency
    const copy = device.calibration?.copyTeraBytes ?? device.memoryTeraBytes * assumedShares.memory
    this.bytesPerMicro = copy * 1e6 * costs.efficiency
    this.decodeKeyBytes = Float64Array.from(costs.work, (work) => work.decodeKeyBytes)
    this.linkBytesPerMicro = device.linkGigaBytes * 1e3
    this.distinctExperts = expectedExperts(costs.experts, costs.activeExperts, costs.maxRowsPerStep)
  }

  stepMicros(load: StepLoad): number {
    const { costs } = this
    const { decodeRows, items, rows, scoredRows } = load
    if (decodeRows + items === 0) return 0
    const isKnown = this.knows(decodeRows)
    let micros = costs.stepMicros + items * costs.itemMicros
    if (isKnown && items === 0) {
      for (let s = 0; s < costs.work.length; s++) micros = this.plusDecodes(micros, load, s)
      return Math.ceil(micros)
    }
    for (let s = 0; s < costs.work.length; s++) {
      if (isKnown && rows[s] === 0 && scoredRows[s] === 0) {
        micros = this.plusDecodes(micros, load, s)
        continue
      }
      micros += this.products(load, s)
      if (rows[s]! > 0) micros += this.prefillAttention(load, s) + this.elements(load, s) + this.recurrence(load, s)
      if (scoredRows[s]! > 0) micros += this.scoring(load, s)
      if (decodeRows > 0) micros += this.decodeAttention(load, s)
      micros += this.reductions(load, s)
    }
    return Math.ceil(micros)
  }

  /** Adds the same terms, in the same order, of a segment that decodes and nothing else: as most segments of most steps do. */
  private plusDecodes(micros: number, { decodeRows, decodeKeys }: StepLoad, s: number): number {
    const { decodeTimes, decodeKeyBytes } = this
    const at = (decodeRows * decodeKeyBytes.length + s) * decodeTerms
    const attention = (decodeKeys[s]! * decodeKeyBytes[s]! + decodeTimes[at + 1]!) / this.bytesPerMicro
    return micros + decodeTimes[at]! + attention + decodeTimes[at + 2]!
  }

  /** Whether the times of so many decode rows are filled in; does it where they are not, within the rows of a step. */
  private knows(decodeRows: number): boolean {
    if (decodeRows >= this.known && decodeRows <= this.costs.maxRowsPerStep) this.learnDecodes(decodeRows)
    return decodeRows < this.known
  }

  private learnDecodes(decodeRows: number): void {
    const { work } = this.costs
    this.known = Math.max(decodeRows + 1, 2 * this.known, 64)
    this.decodeTimes = new Float64Array(this.known * work.length * decodeTerms)
    this.decodesAreOutside = new Uint8Array(this.known)
    const load = new StepLoad(work.length)
    for (let rows = 0, at = 0; rows < this.known; rows++) {
      load.decodeRows = rows
      for (let s = 0; s < work.length; s++, at += decodeTerms) {
        this.decodeTimes[at] = this.products(load, s)
        this.decodeTimes[at + 1] = rows * work[s]!.decodeRowBytes
        this.decodeTimes[at + 2] = this.reductions(load, s)
        if (this.productsAreOutside(load, s)) this.decodesAreOutside[rows] = 1
      }
    }
  }

  /** The parts of `stepMicros`, whose sum it is; the last one is the rounding to whole µs. Parts of no time are left out. */
  terms(load: StepLoad): ReadonlyArray<StepTerm> {
    const { costs } = this
    if (load.decodeRows + load.items === 0) return []
    const terms: Array<StepTerm> = [
      { name: "launches and host work of any step", micros: costs.stepMicros },
      { name: `${load.items} prefill items`, micros: load.items * costs.itemMicros },
    ]
    for (let s = 0; s < costs.work.length; s++) {
      const add = (name: string, micros: number) => terms.push({ name: `segment ${s}: ${name}`, micros })
      add(`matrix products (${this.isComputeBound(load, s) ? "computing" : "reading weights"})`, this.products(load, s))
      if (load.rows[s]! > 0) {
        add("prefill attention", this.prefillAttention(load, s))
        add("norms, activations, residuals", this.elements(load, s))
        add("linear recurrence", this.recurrence(load, s))
      }
      if (load.scoredRows[s]! > 0) add("selection", this.scoring(load, s))
      if (load.decodeRows > 0) add("decode attention", this.decodeAttention(load, s))
      add("all-reduces", this.reductions(load, s))
    }
    const sum = terms.reduce((total, term) => total + term.micros, 0)
    terms.push({ name: "rounding up to whole µs", micros: this.stepMicros(load) - sum })
    return terms.filter((term) => term.micros !== 0)
  }

  /** What this prediction rests on that was not measured; empty when all of it was. */
  outside(load: StepLoad): ReadonlyArray<string> {
    const { device } = this.costs
    if (device.calibration === null) return [`${device.label}: nothing measured, datasheet peaks × assumed shares`]
    const found: Array<string> = []
    for (let s = 0; s < this.costs.work.length; s++) {
      if (this.productsAreOutside(load, s)) {
        const rows = load.rows[s]! + load.decodeRows
        found.push(`segment ${s}: matrix products of ${rows} rows, measured ${this.gemm.from} to ${this.gemm.to}`)
      }
      if (this.attentionIsOutside(load, s)) {
        const tokens = Math.round(attendedTokens(load, s))
        found.push(
          `segment ${s}: attention as in ${tokens} tokens, measured ${this.attention.from} to ${this.attention.to}`,
        )
      }
    }
    return found
  }

  /** Whether `outside` would name anything. */
  isOutside(load: StepLoad): boolean {
    if (this.costs.device.calibration === null) return true
    if (load.items === 0 && this.knows(load.decodeRows)) return this.decodesAreOutside[load.decodeRows] === 1
    for (let s = 0; s < this.costs.work.length; s++) {
      if (this.productsAreOutside(load, s) || this.attentionIsOutside(load, s)) return true
    }
    return false
  }

  private productsAreOutside(load: StepLoad, s: number): boolean {
    const rows = load.rows[s]! + load.decodeRows
    return rows > 0 && !this.gemm.covers(rows) && this.isComputeBound(load, s)
  }

  private attentionIsOutside(load: StepLoad, s: number): boolean {
    return load.pairs[s]! > 0 && !this.attention.covers(Math.round(attendedTokens(load, s)))
  }

  /** Operations that a step's load stands for: the numerator of model FLOP utilisation. */
  flops(load: StepLoad): number {
    let flops = 0
    for (let s = 0; s < this.costs.work.length; s++) {
      const work = this.costs.work[s]!
      flops +=
        load.rows[s]! * (work.rowFlops + work.slidingRowFlops + work.recurrenceRowFlops) +
        load.decodeRows * work.decodeRowFlops +
        load.pairs[s]! * work.pairFlops +
        load.entryPairs[s]! * work.entryPairFlops +
        load.decodeKeys[s]! * work.decodePairFlops
    }
    return flops
  }

  private products(load: StepLoad, s: number): number {
    const rows = load.rows[s]!
    if (rows === 0 && load.decodeRows === 0) return 0
    return Math.max(this.computing(load, s), this.reading(load, s))
  }

  private isComputeBound(load: StepLoad, s: number): boolean {
    return this.computing(load, s) >= this.reading(load, s)
  }

  private computing(load: StepLoad, s: number): number {
    const work = this.costs.work[s]!
    const rows = load.rows[s]!
    const flops = rows * work.rowFlops + load.decodeRows * work.decodeRowFlops
    return flops / (this.gemm.flopsPerMicro(rows + load.decodeRows) * this.efficiency)
  }

  private reading(load: StepLoad, s: number): number {
    const work = this.costs.work[s]!
    const decodes = load.decodeRows > 0
    let bytes = decodes ? work.decodeWeightBytes : work.rowWeightBytes
    const expert = decodes ? work.decodeExpertBytes : work.rowExpertBytes
    if (expert > 0) {
      const rows = Math.min(load.rows[s]! + load.decodeRows, this.distinctExperts.length - 1)
      bytes += expert * this.distinctExperts[rows]!
    }
    return bytes / this.bytesPerMicro
  }

  private prefillAttention(load: StepLoad, s: number): number {
    const work = this.costs.work[s]!
    const flops =
      load.pairs[s]! * work.pairFlops + load.entryPairs[s]! * work.entryPairFlops + load.rows[s]! * work.slidingRowFlops
    return flops / (this.attention.flopsPerMicro(attendedTokens(load, s)) * this.efficiency)
  }

  private elements(load: StepLoad, s: number): number {
    return (load.rows[s]! * this.costs.work[s]!.rowElementBytes) / this.bytesPerMicro
  }

  private recurrence(load: StepLoad, s: number): number {
    return (load.rows[s]! * this.costs.work[s]!.recurrenceRowFlops) / this.leastAttentionRate
  }

  private scoring(load: StepLoad, s: number): number {
    const flops = load.scoredRows[s]! * this.costs.lastQ * this.costs.work[s]!.scorePairFlops
    return flops / this.leastAttentionRate
  }

  private decodeAttention(load: StepLoad, s: number): number {
    const work = this.costs.work[s]!
    return (load.decodeKeys[s]! * work.decodeKeyBytes + load.decodeRows * work.decodeRowBytes) / this.bytesPerMicro
  }

  private reductions(load: StepLoad, s: number): number {
    const work = this.costs.work[s]!
    const rows = load.rows[s]!
    if (work.reductions === 0 || rows + load.decodeRows === 0) return 0
    const bytes = rows * work.rowLinkBytes + load.decodeRows * work.decodeLinkBytes
    return work.reductions * this.costs.reductionMicros + bytes / this.linkBytesPerMicro
  }
}

/** Length of the prompt whose causal pass has as many keys a row as the segment's prefill rows have on average. */
const attendedTokens = (load: StepLoad, s: number): number => (2 * load.pairs[s]!) / load.rows[s]! - 1

/** count · (1 − (1 − active / count)^rows), by repeated multiplication so that it is equal on every machine. */
const expectedExperts = (count: number, active: number, maxRows: number): Float64Array => {
  if (count === 0) return new Float64Array(1)
  const expected = new Float64Array(maxRows + 1)
  const missed = 1 - active / count
  let power = 1
  for (let rows = 0; rows <= maxRows; rows++) {
    expected[rows] = count * (1 - power)
    power *= missed
  }
  return expected
}
