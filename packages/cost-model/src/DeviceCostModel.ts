import type { CostModel } from "@uniprefill/scheduler/CostModel"
import { StepLoad } from "@uniprefill/scheduler/StepLoad"
import type { Calibration, LinkCurve, RatePoint } from "./Calibration.ts"
import { Curve } from "./Curve.ts"
import { LinkTime } from "./LinkTime.ts"
import type { OperationWork } from "./OperationWork.ts"

export interface DeviceCosts {
  /** Its rates and times hold as they are. */
  readonly calibration: Calibration
  /** All-reduces between the ranks; null for one rank. */
  readonly link: LinkCurve | null
  readonly work: ReadonlyArray<OperationWork>
  /** Queries that a selection scores. */
  readonly lastQ: number
  /** Largest number of rows in a step. */
  readonly maxRowsPerStep: number
}

/** A part of a step's predicted time. */
export interface StepTerm {
  readonly name: string
  readonly micros: number
}

/** Of a segment's decode rows: time of the matrix products, of states and sampling, of the all-reduces. */
const decodeTerms = 3

/** What the time of a segment depends on. */
const askedTerms = 9

/**
 * Step time from what a device does: for each segment the matrix products take the longer of computing and of reading the
 * weights, with decode and prefill rows sharing one reading, and no less than its decode rows alone; the other operations follow one
 * another. A segment takes no less than the launches of its layers.
 *
 * A step without rows launches nothing and takes no time.
 *
 * `stepMicros` is for the scheduler's inner loop. `terms` tells the same time part by part; `outside` names what was
 * predicted beyond what was measured.
 */
export class DeviceCostModel implements CostModel {
  readonly costs: DeviceCosts
  /** FLOP per µs by rows, and by tokens. */
  private readonly gemm: Curve
  private readonly attention: Curve
  /** µs for each byte of weights, by rows, where these decode and are alone; null where that was not measured. */
  private readonly decode: Curve | null
  /** FLOP per µs of attention over the fewest tokens measured: what the recurrence is given. */
  private readonly leastAttentionRate: number
  private readonly scoreRate: number
  private readonly bytesPerMicro: number
  /** µs for each key that a decode row sees, in full-attention layers and within windows: reading K and V, or computing. */
  private readonly keyMicros: Float64Array
  private readonly windowKeyMicros: Float64Array
  /** Launches of each segment's layers, µs. */
  private readonly floors: Float64Array
  private readonly link: LinkTime | null
  private readonly stepTime: number
  private readonly itemTime: number
  private readonly mixedTime: number
  private readonly mixedRowTime: number
  /** Expected number of distinct experts that r rows pass, for r = 0 … maxRowsPerStep. */
  private readonly distinctExperts: Float64Array
  /**
   * Of steps without prefill, what depends on nothing but the number of decode rows: {@link decodeTerms} numbers for each
   * segment, `[decodeRows][segment][term]`, and whether it is outside of what was measured. For fewer rows than `known`.
   */
  private decodeTimes = new Float64Array()
  private decodesAreOutside = new Uint8Array()
  private known = 0
  /** Of each segment, the load that it was predicted for last, `[segment][term]`, and its time. */
  private readonly asked: Float64Array
  private readonly segmentMicros: Float64Array

  constructor(costs: DeviceCosts) {
    const { calibration, work, link } = costs
    this.costs = costs
    this.gemm = new Curve(calibration.gemm.map(flopsPerMicro))
    this.attention = new Curve(calibration.attention.map(flopsPerMicro))
    const { decode } = calibration
    this.decode = decode === undefined ? null : new Curve(decode.map(({ at, teraBytes }) => [at, 1e-6 / teraBytes]))
    this.leastAttentionRate = this.attention.at(this.attention.from)
    const { copyTeraBytes, keyTeraBytes = copyTeraBytes, scoreTeraFlops } = calibration
    this.bytesPerMicro = copyTeraBytes * 1e6
    this.scoreRate = scoreTeraFlops === undefined ? this.leastAttentionRate : scoreTeraFlops * 1e6
    const perKey = (bytes: number, flops: number) =>
      Math.max(bytes / (keyTeraBytes * 1e6), flops / this.leastAttentionRate)
    this.keyMicros = Float64Array.from(work, (one) => perKey(one.decodeKeyBytes, one.decodePairFlops))
    this.windowKeyMicros = Float64Array.from(work, (one) => perKey(one.decodeWindowKeyBytes, one.decodeWindowPairFlops))
    this.asked = new Float64Array(work.length * askedTerms).fill(-1)
    this.segmentMicros = new Float64Array(work.length)
    this.floors = Float64Array.from(work, (one) => one.layers * (calibration.layerMicros ?? 0))
    this.link = link === null ? null : new LinkTime(link)
    this.stepTime = calibration.stepMicros
    this.itemTime = calibration.itemMicros
    this.mixedTime = calibration.mixedMicros ?? 0
    this.mixedRowTime = calibration.mixedRowMicros ?? 0
    const { experts = 0, topK = 0 } = work[0] ?? {}
    this.distinctExperts = expectedExperts(experts, topK, costs.maxRowsPerStep)
  }

  stepMicros(load: StepLoad): number {
    const { decodeRows, items, rows, scoredRows } = load
    if (decodeRows + items === 0) return 0
    const isKnown = this.knows(decodeRows)
    const segments = this.floors.length
    let micros = this.stepTime + items * this.itemTime
    if (isKnown && items === 0) {
      // As in `decodes`, written out: a number that a call returns would be the only object that a steady step makes.
      const { decodeTimes, keyMicros, windowKeyMicros, floors } = this
      const { decodeKeys, decodeWindowKeys } = load
      for (let s = 0, at = decodeRows * segments * decodeTerms; s < segments; s++, at += decodeTerms) {
        const attention =
          decodeKeys[s]! * keyMicros[s]! + decodeWindowKeys[s]! * windowKeyMicros[s]! + decodeTimes[at + 1]!
        micros += Math.max(decodeTimes[at]! + attention + decodeTimes[at + 2]!, floors[s]!)
      }
      return Math.ceil(micros)
    }
    micros += this.mixing(load)
    for (let s = 0; s < segments; s++) {
      if (isKnown && rows[s] === 0 && scoredRows[s] === 0) {
        if (decodeRows > 0) micros += this.decodes(load, s)
      } else {
        this.segment(load, s)
        micros += this.segmentMicros[s]!
      }
    }
    return Math.ceil(micros)
  }

  /** What decoding takes more where it is not alone. */
  private mixing({ decodeRows, items }: StepLoad): number {
    return items > 0 && decodeRows > 0 ? this.mixedTime + decodeRows * this.mixedRowTime : 0
  }

  /** Of a segment that decodes and nothing else, as most segments of most steps do. Requires rows that decode. */
  private decodes({ decodeRows, decodeKeys, decodeWindowKeys }: StepLoad, s: number): number {
    const { decodeTimes, keyMicros, windowKeyMicros } = this
    const at = (decodeRows * keyMicros.length + s) * decodeTerms
    const attention = decodeKeys[s]! * keyMicros[s]! + decodeWindowKeys[s]! * windowKeyMicros[s]! + decodeTimes[at + 1]!
    return Math.max(decodeTimes[at]! + attention + decodeTimes[at + 2]!, this.floors[s]!)
  }

  /**
   * Sees that `segmentMicros[s]` is the time of a segment: most steps are asked for several times. No number is returned, for
   * that would be an object each time.
   */
  private segment(load: StepLoad, s: number): void {
    const { asked } = this
    const at = s * askedTerms
    if (
      asked[at] === load.rows[s] &&
      asked[at + 1] === load.pairs[s] &&
      asked[at + 2] === load.decodeKeys[s] &&
      asked[at + 3] === load.decodeRows &&
      asked[at + 4] === load.entryPairs[s] &&
      asked[at + 5] === load.scoredRows[s] &&
      asked[at + 6] === load.windowPairs[s] &&
      asked[at + 7] === load.decodeWindowKeys[s] &&
      asked[at + 8] === load.selections[s]
    ) {
      return
    }
    const rows = load.rows[s]!
    const { decodeRows } = load
    const scoredRows = load.scoredRows[s]!
    asked[at] = rows
    asked[at + 1] = load.pairs[s]!
    asked[at + 2] = load.decodeKeys[s]!
    asked[at + 3] = decodeRows
    asked[at + 4] = load.entryPairs[s]!
    asked[at + 5] = scoredRows
    asked[at + 6] = load.windowPairs[s]!
    asked[at + 7] = load.decodeWindowKeys[s]!
    asked[at + 8] = load.selections[s]!
    if (rows === 0 && decodeRows === 0 && scoredRows === 0) {
      this.segmentMicros[s] = 0
      return
    }
    let micros = this.products(load, s)
    if (rows > 0) micros += this.prefillAttention(load, s) + this.elements(load, s) + this.recurrence(load, s)
    if (scoredRows > 0) micros += this.scoring(load, s)
    if (decodeRows > 0) {
      micros += this.decodeAttention(load, s) + (this.decodeStates(decodeRows, s) + this.sampling(decodeRows, s))
    }
    this.segmentMicros[s] = Math.max(micros + this.reductions(load, s), this.floors[s]!)
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
        this.decodeTimes[at + 1] = this.decodeStates(rows, s) + this.sampling(rows, s)
        this.decodeTimes[at + 2] = this.reductions(load, s)
        if (this.productsAreOutside(load, s)) this.decodesAreOutside[rows] = 1
      }
    }
  }

  /** The parts of `stepMicros`, whose sum it is; the last one is the rounding to whole µs. Parts of no time are left out. */
  terms(load: StepLoad): ReadonlyArray<StepTerm> {
    const { work, calibration } = this.costs
    if (load.decodeRows + load.items === 0) return []
    const terms: Array<StepTerm> = [
      { name: "launches and host work of any step", micros: calibration.stepMicros },
      {
        name: `${load.items} prefill ${load.items === 1 ? "item" : "items"}`,
        micros: load.items * calibration.itemMicros,
      },
      { name: "decoding beside prefill", micros: this.mixing(load) },
    ]
    for (let s = 0; s < work.length; s++) {
      let sum = 0
      const add = (name: string, micros: number) => {
        sum += micros
        terms.push({ name: `segment ${s}: ${name}`, micros })
      }
      add(`matrix products (${this.isComputeBound(load, s) ? "computing" : "reading weights"})`, this.products(load, s))
      if (load.rows[s]! > 0) {
        add("prefill attention", this.prefillAttention(load, s))
        add("norms, activations, residuals", this.elements(load, s))
        add("linear recurrence", this.recurrence(load, s))
      }
      if (load.scoredRows[s]! > 0) add("selection", this.scoring(load, s))
      if (load.decodeRows > 0) {
        add("decode attention", this.decodeAttention(load, s))
        add("recurrent states", this.decodeStates(load.decodeRows, s))
        add("sampling and the like", this.sampling(load.decodeRows, s))
      }
      add("all-reduces", this.reductions(load, s))
      if (sum > 0) add("launches that its work does not hide", Math.max(0, this.floors[s]! - sum))
    }
    const sum = terms.reduce((total, term) => total + term.micros, 0)
    terms.push({ name: "rounding up to whole µs", micros: this.stepMicros(load) - sum })
    return terms.filter((term) => term.micros !== 0)
  }

  /** What this prediction rests on that was not measured; empty when all of it was. */
  outside(load: StepLoad): ReadonlyArray<string> {
    const { calibration, link } = this.costs
    if (calibration.source === "assumed") return [`${calibration.device}: nothing measured, ${calibration.note}`]
    const found: Array<string> = []
    if (link?.source === "assumed") found.push(`all-reduces between ${link.ranks} ranks: not measured, ${link.library}`)
    for (let s = 0; s < this.costs.work.length; s++) {
      if (this.productsAreOutside(load, s)) {
        const rows = load.rows[s]! + load.decodeRows
        const { from, to } = this.isKnownAlone(load, s) ? this.decode! : this.gemm
        found.push(`segment ${s}: matrix products of ${rows} rows, measured ${from} to ${to}`)
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
    const { calibration, link, work } = this.costs
    if (calibration.source === "assumed" || link?.source === "assumed") return true
    if (load.items === 0 && this.knows(load.decodeRows)) return this.decodesAreOutside[load.decodeRows] === 1
    for (let s = 0; s < work.length; s++) {
      if (this.productsAreOutside(load, s) || this.attentionIsOutside(load, s)) return true
    }
    return false
  }

  private productsAreOutside(load: StepLoad, s: number): boolean {
    if (this.isKnownAlone(load, s)) return !this.decode!.covers(load.decodeRows)
    const rows = load.rows[s]! + load.decodeRows
    return rows > 0 && !this.gemm.covers(rows) && this.isComputeBound(load, s)
  }

  /** Whether a segment has nothing but decode rows, and such steps were measured. */
  private isKnownAlone({ rows, decodeRows }: StepLoad, s: number): boolean {
    return this.decode !== null && rows[s] === 0 && decodeRows > 0
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
        load.rows[s]! * (work.rowFlops + work.recurrenceRowFlops) +
        load.pairs[s]! * work.pairFlops +
        load.windowPairs[s]! * work.windowPairFlops +
        load.entryPairs[s]! * work.entryPairFlops +
        load.decodeRows * (work.decodeRowFlops + work.decodeRecurrenceFlops) +
        load.decodeKeys[s]! * work.decodePairFlops +
        load.decodeWindowKeys[s]! * work.decodeWindowPairFlops
    }
    return flops
  }

  private products(load: StepLoad, s: number): number {
    const { decode } = this
    const { decodeRows } = load
    if (load.rows[s] === 0 && decodeRows === 0) return 0
    const alone = this.decodingAlone(decodeRows, s)
    if (decode !== null && load.rows[s] === 0 && decodeRows <= decode.to) return alone
    return Math.max(alone, this.computing(load, s), this.reading(load, s))
  }

  private isComputeBound(load: StepLoad, s: number): boolean {
    return this.computing(load, s) >= Math.max(this.decodingAlone(load.decodeRows, s), this.reading(load, s))
  }

  /** A segment's matrix products where its decode rows are alone, as such steps were measured; 0 where they were not. */
  private decodingAlone(decodeRows: number, s: number): number {
    if (this.decode === null || decodeRows === 0) return 0
    const { decodeWeightBytes, decodeExpertBytes } = this.costs.work[s]!
    return (decodeWeightBytes + this.expertsRead(decodeExpertBytes, decodeRows)) * this.decode.at(decodeRows)
  }

  private computing(load: StepLoad, s: number): number {
    const work = this.costs.work[s]!
    const rows = load.rows[s]!
    const flops = rows * work.rowFlops + load.decodeRows * work.decodeRowFlops
    return flops / this.gemm.at(rows + load.decodeRows)
  }

  private reading(load: StepLoad, s: number): number {
    const work = this.costs.work[s]!
    const decodes = load.decodeRows > 0
    const bytes = decodes ? work.decodeWeightBytes : work.rowWeightBytes
    const expert = decodes ? work.decodeExpertBytes : work.rowExpertBytes
    return (bytes + this.expertsRead(expert, load.rows[s]! + load.decodeRows)) / this.bytesPerMicro
  }

  /** Bytes of the experts that so many rows are expected to pass; `expert`: of one of every layer. */
  private expertsRead(expert: number, rows: number): number {
    return expert === 0 ? 0 : expert * this.distinctExperts[Math.min(rows, this.distinctExperts.length - 1)]!
  }

  private prefillAttention(load: StepLoad, s: number): number {
    const work = this.costs.work[s]!
    const flops =
      load.pairs[s]! * work.pairFlops +
      load.entryPairs[s]! * work.entryPairFlops +
      load.windowPairs[s]! * work.windowPairFlops
    return flops / this.attention.at(attendedTokens(load, s))
  }

  private elements(load: StepLoad, s: number): number {
    return (load.rows[s]! * this.costs.work[s]!.rowElementBytes) / this.bytesPerMicro
  }

  private recurrence(load: StepLoad, s: number): number {
    return (load.rows[s]! * this.costs.work[s]!.recurrenceRowFlops) / this.leastAttentionRate
  }

  private scoring(load: StepLoad, s: number): number {
    const { calibration, lastQ, work } = this.costs
    const flops = load.scoredRows[s]! * lastQ * work[s]!.scorePairFlops
    const { readBackMicros = 0, selectionMicros = 0 } = calibration
    return flops / this.scoreRate + readBackMicros + load.selections[s]! * selectionMicros
  }

  private decodeAttention({ decodeKeys, decodeWindowKeys }: StepLoad, s: number): number {
    return decodeKeys[s]! * this.keyMicros[s]! + decodeWindowKeys[s]! * this.windowKeyMicros[s]!
  }

  private decodeStates(rows: number, s: number): number {
    const { decodeRowBytes, decodeRecurrenceFlops } = this.costs.work[s]!
    return rows * Math.max(decodeRowBytes / this.bytesPerMicro, decodeRecurrenceFlops / this.leastAttentionRate)
  }

  /** After the last segment. */
  private sampling(rows: number, s: number): number {
    return s === this.floors.length - 1 ? rows * (this.costs.calibration.decodeRowMicros ?? 0) : 0
  }

  /** Rows of one step are reduced together where they pass the same layers. */
  private reductions(load: StepLoad, s: number): number {
    const { rowReductions, decodeReductions, reductionRowBytes } = this.costs.work[s]!
    const { link } = this
    if (link === null) return 0
    const { decodeRows } = load
    const rows = load.rows[s]!
    const shared = rows === 0 ? 0 : rowReductions
    const alone = decodeRows === 0 ? 0 : Math.max(0, decodeReductions - shared)
    return (
      (shared === 0 ? 0 : shared * link.microsOf((rows + decodeRows) * reductionRowBytes)) +
      (alone === 0 ? 0 : alone * link.microsOf(decodeRows * reductionRowBytes))
    )
  }
}

const flopsPerMicro = ({ at, teraFlops }: RatePoint): readonly [number, number] => [at, teraFlops * 1e6]

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
