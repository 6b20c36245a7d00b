import type { Calibration, LinkCurve, RatePoint } from "@uniprefill/cost-model/Calibration"
import { DeviceCostModel } from "@uniprefill/cost-model/DeviceCostModel"
import { LinkTime } from "@uniprefill/cost-model/LinkTime"
import type { OperationWork } from "@uniprefill/cost-model/OperationWork"
import type { StepLoad } from "@uniprefill/scheduler/StepLoad"
import { type Equation, fitFactors } from "./LeastSquares.ts"

/** A step's work and the time that it took on the device: the median of several. */
export interface TimedStep {
  readonly load: StepLoad
  readonly micros: number
}

/** What `bench ops` measures a calibration from. */
export interface OpsMeasurements {
  readonly device: string
  readonly note: string
  readonly fittedTo: Calibration["fittedTo"]
  /** Bytes read and written by copies, and their time; null where they took none that could be measured. */
  readonly copy: { readonly bytes: number; readonly micros: number } | null
  /** One prompt's rows from its first on, ascending in rows. */
  readonly linear: ReadonlyArray<TimedStep>
  /** Chunks of one size behind more and more rows of their prompt. At least two. */
  readonly attention: ReadonlyArray<TimedStep>
  /** As many rows as in a step of `linear`, as several prompts. */
  readonly items: TimedStep | null
  /** Rows that decode, by their number and context. */
  readonly decode: ReadonlyArray<TimedStep>
  /** Rows that decode beside a prompt. */
  readonly mixed: ReadonlyArray<TimedStep>
  /** Chunks that end with a selection, and a chunk of as many rows before without. */
  readonly selection: ReadonlyArray<{ readonly chunk: TimedStep; readonly plain: TimedStep }>
  /** Prompts that drop, whole: with all of their selections in one step. */
  readonly dropped: ReadonlyArray<TimedStep>
}

export interface FitCosts {
  readonly work: ReadonlyArray<OperationWork>
  /** All-reduces between the ranks, whose time is left out of what is fitted; null for one rank. */
  readonly link: LinkCurve | null
  readonly lastQ: number
  readonly maxRowsPerStep: number
}

/** Bytes a µs of copies that took none: a step's time is then its launches', not its reading's. */
const noTime = 1e9

const sum = (values: ArrayLike<number>): number => Array.from(values).reduce((a, b) => a + b, 0)

/**
 * The calibration by which the cost model predicts the measured steps. One after another: what copies reach; from decode steps what a key
 * takes and at what rate steps of so many rows read their weights; from prompts cut in two what an item takes; from chunks behind a growing
 * prompt the rate of attention; from steps of more and more rows that of matrix products, whatever the model does between these included;
 * then what is left of steps that decode beside a prompt, and of steps that select.
 */
export const calibrationFrom = (measured: OpsMeasurements, costs: FitCosts): Calibration => {
  const { work, link } = costs
  const weightBytes = sum(work.map((one) => one.decodeWeightBytes))
  const expertBytes = sum(work.map((one) => one.decodeExpertBytes * one.topK))
  const copied = measured.copy === null ? noTime : measured.copy.bytes / measured.copy.micros
  const { keyMicros, byRows } = decodeTimes(measured.decode, costs, copied)
  const leastMicros = Math.max(1, byRows[0]!.micros)
  // Reading the weights takes no longer than the whole step.
  const readBytes = weightBytes + expertBytes
  const copyRate = measured.copy === null ? noTime : Math.max(copied, readBytes / leastMicros)
  let calibration: Calibration = {
    format: "uniprefill-calibration",
    version: 3,
    device: measured.device,
    source: "measured",
    note: measured.note,
    fittedTo: measured.fittedTo,
    ...(link === null ? {} : { links: [link] }),
    gemm: [{ at: 1, teraFlops: 1e6 }],
    attention: [{ at: 1, teraFlops: 1e6 }],
    copyTeraBytes: copyRate / 1e6,
    ...(keyMicros === null ? {} : { keyTeraBytes: 1 / keyMicros / 1e6 }),
    stepMicros:
      measured.copy === null
        ? Math.min(leastMicros, withoutRows(measured))
        : Math.max(0, leastMicros - readBytes / copyRate),
    itemMicros: 0,
  }
  const predicted = (load: StepLoad, over: Partial<Calibration> = {}): number =>
    new DeviceCostModel({ ...costs, calibration: { ...calibration, ...over } }).stepMicros(load)

  calibration = {
    ...calibration,
    decode: byRows.map(({ rows, micros }) => {
      const bytes = weightBytes + sum(work.map((one) => one.decodeExpertBytes * expertsRead(one, rows)))
      return { at: rows, teraBytes: bytes / Math.max(1, micros - calibration.stepMicros) / 1e6 }
    }),
  }
  calibration = { ...calibration, attention: attentionCurve(measured.attention, work) }
  const gemm = (): ReadonlyArray<RatePoint> =>
    measured.linear.map(({ load, micros }) => {
      const flops = sum(work.map((one, s) => load.rows[s]! * one.rowFlops))
      // All else, with matrix products of no time; weights are read meanwhile.
      const rest =
        predicted(load, { copyTeraBytes: 1e6, gemm: [{ at: 1, teraFlops: 1e6 }] }) + elementMicros(load, work, copyRate)
      return { at: load.rows[0]!, teraFlops: flops / Math.max(0.05 * micros, micros - rest) / 1e6 }
    })
  calibration = { ...calibration, gemm: gemm() }
  if (measured.items !== null) {
    const { load, micros } = measured.items
    // One of them has been in the rate of matrix products so far.
    const itemMicros = Math.max(0, (micros - predicted(load)) / (load.items - 1))
    calibration = { ...calibration, itemMicros }
    calibration = { ...calibration, gemm: gemm() }
  }
  if (measured.mixed.length > 0) {
    const [mixedMicros, mixedRowMicros] = fitFactors(
      measured.mixed.map(({ load, micros }) => ({
        terms: [1, load.decodeRows],
        micros: micros - predicted(load),
        whole: micros,
      })),
    )
    calibration = { ...calibration, mixedMicros, mixedRowMicros }
  }
  const selecting = [
    ...measured.selection.map(({ chunk, plain }) => ({
      terms: selectionTerms(chunk.load, costs),
      micros: chunk.micros - plain.micros - (predicted(chunk.load, freeScores) - predicted(plain.load, freeScores)),
      whole: chunk.micros,
    })),
    ...measured.dropped.map(({ load, micros }) => ({
      terms: selectionTerms(load, costs),
      micros: micros - predicted(load, freeScores),
      whole: micros,
    })),
  ]
  if (selecting.length === 0) return calibration
  const [readBackMicros, selectionMicros, scoreMicros] = fitFactors(selecting)
  return {
    ...calibration,
    readBackMicros,
    selectionMicros,
    scoreTeraFlops: 1 / Math.max(1e-12, scoreMicros!) / 1e6,
  }
}

/** What a step would take without its rows and its item, by the two shortest prompts and by several in one step. */
const withoutRows = ({ linear, items }: OpsMeasurements): number => {
  const [short, longer] = linear
  if (short === undefined || longer === undefined) return 0
  const [from, to] = [short.load.rows[0]!, longer.load.rows[0]!]
  const whole = items === null ? undefined : linear.find(({ load }) => load.rows[0] === items.load.rows[0])
  const item = items === null || whole === undefined ? 0 : (items.micros - whole.micros) / (items.load.items - 1)
  return Math.max(0, short.micros - (from * (longer.micros - short.micros)) / (to - from) - Math.max(0, item))
}

const freeScores: Partial<Calibration> = { scoreTeraFlops: 1e6 }

/** What a step's selections take their time by: segments that select, selections, and operations of the scores. */
const selectionTerms = (load: StepLoad, { work, lastQ }: FitCosts): ReadonlyArray<number> => [
  load.selections.filter((selections) => selections > 0).length,
  sum(load.selections),
  sum(work.map((one, s) => load.scoredRows[s]! * lastQ * one.scorePairFlops)),
]

/** Experts of a layer that so many rows are expected to pass. */
const expertsRead = ({ experts, topK }: OperationWork, rows: number): number =>
  experts === 0 ? 0 : experts * (1 - (1 - topK / experts) ** rows)

interface DecodeTimes {
  /** Of each byte of K and V; null where no two steps of as many rows differ in them: as copies then. */
  readonly keyMicros: number | null
  /** A step's time besides those and all-reduces: no less with more rows. */
  readonly byRows: ReadonlyArray<{ readonly rows: number; readonly micros: number }>
}

/** Keys take the same time each, whatever the rows; the rest is one number for each number of rows. */
const decodeTimes = (steps: ReadonlyArray<TimedStep>, costs: FitCosts, copyRate: number): DecodeTimes => {
  const { work } = costs
  const counts = [...new Set(steps.map(({ load }) => load.decodeRows))].toSorted((a, b) => a - b)
  const points = steps.map(({ load, micros }) => ({
    rows: load.decodeRows,
    bytes: sum(
      work.map(
        (one, s) => load.decodeKeys[s]! * one.decodeKeyBytes + load.decodeWindowKeys[s]! * one.decodeWindowKeyBytes,
      ),
    ),
    micros: micros - decodeReductionMicros(load, costs),
    whole: micros,
  }))
  const differs = counts.some(
    (count) => new Set(points.filter(({ rows }) => rows === count).map(({ bytes }) => bytes)).size > 1,
  )
  // Of each number of rows what it takes more than fewer: nothing is taken less.
  const factors = fitFactors(
    points.map(({ rows, bytes, micros, whole }): Equation => {
      const more = counts.map((count) => (rows >= count ? 1 : 0))
      return differs
        ? { terms: [bytes, ...more], micros, whole }
        : { terms: [0, ...more], micros: micros - bytes / copyRate, whole }
    }),
  )
  let micros = 0
  const byRows = counts.map((rows, i) => ({ rows, micros: (micros += factors[i + 1]!) }))
  return { keyMicros: factors[0]! > 0 ? factors[0]! : null, byRows }
}

/** µs for each unit, by least squares; undefined where the points do not rise. */
const slopeOf = (points: ReadonlyArray<readonly [at: number, micros: number]>): number | undefined => {
  const mean = (of: 0 | 1) => sum(points.map((point) => point[of])) / points.length
  const [x, y] = [mean(0), mean(1)]
  const above = sum(points.map((point) => (point[0] - x) * (point[1] - y)))
  const below = sum(points.map((point) => (point[0] - x) ** 2))
  return below > 0 && above > 0 ? above / below : undefined
}

const decodeReductionMicros = ({ decodeRows }: StepLoad, { work, link }: FitCosts): number => {
  if (link === null) return 0
  const time = new LinkTime(link)
  return sum(work.map((one) => one.decodeReductions * time.microsOf(decodeRows * one.reductionRowBytes)))
}

const attentionFlops = (load: StepLoad, work: ReadonlyArray<OperationWork>): number =>
  sum(
    work.map(
      (one, s) =>
        load.pairs[s]! * one.pairFlops +
        load.entryPairs[s]! * one.entryPairFlops +
        load.windowPairs[s]! * one.windowPairFlops,
    ),
  )

const elementMicros = (load: StepLoad, work: ReadonlyArray<OperationWork>, bytesPerMicro: number): number =>
  sum(work.map((one, s) => load.rows[s]! * one.rowElementBytes)) / bytesPerMicro

/**
 * Rates by length: chunks of as many rows differ by their attention alone. What is left of a chunk without it is a line's
 * intercept. The first chunk, most of which is not attention, gets the rate of the second.
 */
const attentionCurve = (
  chunks: ReadonlyArray<TimedStep>,
  work: ReadonlyArray<OperationWork>,
): ReadonlyArray<RatePoint> => {
  const points = chunks.map(({ load, micros }) => [attentionFlops(load, work), micros] as const)
  const near = points.slice(0, Math.max(2, Math.ceil(points.length / 4)))
  const slope = slopeOf(near) ?? slopeOf(points)
  const base = slope === undefined ? 0 : near[0]![1] - slope * near[0]![0]
  const rates = points.map(([flops, micros], i) => {
    const measured = flops / Math.max(1e-3, micros - base) / 1e6
    return i === 0 && slope !== undefined ? 1 / slope / 1e6 : measured
  })
  return chunks.map(({ load }, i) => ({
    // The length of the prompt whose causal pass has as many keys a row.
    at: Math.max(1, Math.round((2 * load.pairs[0]!) / load.rows[0]! - 1)),
    teraFlops: rates[i]!,
  }))
}
