import type { Calibration, LinkCurve, RatePoint } from "@uniprefill/cost-model/Calibration"
import { DeviceCostModel } from "@uniprefill/cost-model/DeviceCostModel"
import { LinkTime } from "@uniprefill/cost-model/LinkTime"
import type { OperationWork } from "@uniprefill/cost-model/OperationWork"
import type { StepLoad } from "@uniprefill/scheduler/StepLoad"

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
 * The calibration by which the cost model predicts the measured steps. One number after another: what copies reach; from decode steps what a key
 * takes and what a step takes besides its weights; from prompts cut in two what an item takes; from chunks behind a growing prompt the
 * rate of attention; from steps of more and more rows that of matrix products, whatever the model does between these included; then what a
 * decode row adds, decoding beside a prompt, and a selection.
 */
export const calibrationFrom = (measured: OpsMeasurements, costs: FitCosts): Calibration => {
  const { work, link } = costs
  const weightBytes = sum(work.map((one) => one.decodeWeightBytes))
  const expertBytes = sum(work.map((one) => one.decodeExpertBytes * one.topK))
  const keyBytes = work.map((one) => one.decodeKeyBytes)
  /** Bytes of K and V that a step's decode rows read. */
  const keysOf = (load: StepLoad): number =>
    sum(work.map((one, s) => load.decodeKeys[s]! * keyBytes[s]! + load.decodeWindowKeys[s]! * one.decodeWindowKeyBytes))

  const byKeys = slopeOf(decodeOfMostRows(measured.decode).map(({ load, micros }) => [keysOf(load), micros]))
  const least = measured.decode[0]!
  const leastMicros = Math.max(
    1,
    least.micros - (byKeys ?? 0) * keysOf(least.load) - decodeReductionMicros(least.load, costs),
  )
  // Reading the weights takes no longer than the whole step.
  const readBytes = weightBytes + expertBytes
  const copyRate =
    measured.copy === null ? noTime : Math.max(measured.copy.bytes / measured.copy.micros, readBytes / leastMicros)
  let calibration: Calibration = {
    format: "uniprefill-calibration",
    version: 2,
    device: measured.device,
    source: "measured",
    note: measured.note,
    fittedTo: measured.fittedTo,
    ...(link === null ? {} : { links: [link] }),
    gemm: [{ at: 1, teraFlops: 1e6 }],
    attention: [{ at: 1, teraFlops: 1e6 }],
    copyTeraBytes: copyRate / 1e6,
    ...(byKeys === undefined ? {} : { keyTeraBytes: 1 / byKeys / 1e6 }),
    stepMicros: Math.max(0, leastMicros - readBytes / copyRate),
    itemMicros: 0,
  }
  const predicted = (load: StepLoad, over: Partial<Calibration> = {}): number =>
    new DeviceCostModel({ ...costs, calibration: { ...calibration, ...over } }).stepMicros(load)

  if (measured.items !== null) {
    const { load, micros } = measured.items
    const whole = measured.linear.find(({ load: { rows } }) => rows[0] === load.rows[0])!
    calibration = { ...calibration, itemMicros: Math.max(0, (micros - whole.micros) / (load.items - 1)) }
  }
  calibration = { ...calibration, attention: attentionCurve(measured.attention, work) }
  const gemm: Array<RatePoint> = measured.linear.map(({ load, micros }) => {
    const flops = sum(work.map((one, s) => load.rows[s]! * one.rowFlops))
    // All else, with matrix products of no time; weights are read meanwhile.
    const rest = predicted(load, { copyTeraBytes: 1e6 }) + elementMicros(load, work, copyRate)
    return { at: load.rows[0]!, teraFlops: flops / Math.max(0.05 * micros, micros - rest) / 1e6 }
  })
  calibration = { ...calibration, gemm }
  const over = (steps: ReadonlyArray<TimedStep>, each: (load: StepLoad) => number): number =>
    Math.max(0, middle(steps.map(({ load, micros }) => (micros - predicted(load)) / each(load))))
  const several = measured.decode.filter(({ load }) => load.decodeRows > 1)
  calibration = { ...calibration, decodeRowMicros: over(several, ({ decodeRows }) => decodeRows) }
  calibration = {
    ...calibration,
    ...mixedTimes(measured.mixed.map(({ load, micros }) => [load.decodeRows, micros - predicted(load)])),
  }
  return { ...calibration, ...selectionTimes(measured.selection, costs) }
}

/** The median; 0 of nothing. */
const middle = (values: ReadonlyArray<number>): number => values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0

/** The steps of the most rows that decode. */
const decodeOfMostRows = (steps: ReadonlyArray<TimedStep>): ReadonlyArray<TimedStep> => {
  const most = Math.max(...steps.map(({ load }) => load.decodeRows))
  return steps.filter(({ load }) => load.decodeRows === most)
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

/** What steps take more that decode beside a prompt, by their decode rows: the line through the medians. */
const mixedTimes = (
  excess: ReadonlyArray<readonly [decodeRows: number, micros: number]>,
): Pick<Calibration, "mixedMicros" | "mixedRowMicros"> => {
  const points = [...new Set(excess.map(([rows]) => rows))].map((rows) => {
    const micros = excess.filter((one) => one[0] === rows).map((one) => one[1])
    return [rows, Math.max(0, middle(micros))] as const
  })
  const mixedRowMicros = slopeOf(points) ?? 0
  return {
    mixedMicros: Math.max(0, middle(points.map(([rows, micros]) => micros - mixedRowMicros * rows))),
    mixedRowMicros,
  }
}

/** Time of a selection whatever its rows, and the rate of its scores. */
const selectionTimes = (
  selections: OpsMeasurements["selection"],
  { work, lastQ }: FitCosts,
): Pick<Calibration, "selectionMicros" | "scoreTeraFlops"> => {
  if (selections.length === 0) return {}
  const points = selections.map(({ chunk, plain }) => {
    const flops = sum(work.map((one, s) => chunk.load.scoredRows[s]! * lastQ * one.scorePairFlops))
    return [flops, Math.max(0, chunk.micros - plain.micros)] as const
  })
  const slope = slopeOf(points)
  if (slope === undefined) return { selectionMicros: sum(points.map(([, micros]) => micros)) / points.length }
  const selectionMicros = sum(points.map(([flops, micros]) => micros - slope * flops)) / points.length
  return { selectionMicros: Math.max(0, selectionMicros), scoreTeraFlops: 1 / slope / 1e6 }
}
