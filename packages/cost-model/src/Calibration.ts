/**
 * What a device does, operation by operation: the content of a `*.calibration.json` file, which the server plans by
 * (`--cost-model`) and the simulator predicts by.
 *
 * Each curve is a list of points, ascending in what it depends on. Between two points the rate is interpolated linearly, of `decode` the
 * time; beyond the ends it is that of the nearest point, and predictions there are outside of what was measured.
 */
export interface Calibration {
  readonly format: "uniprefill-calibration"
  /** Files of version 2 are read as well: see {@link decodeCalibration}. */
  readonly version: 3
  /** Name of the device. */
  readonly device: string
  /** `measured` operation by operation, `fitted` to whole runs, or `assumed`. */
  readonly source: "measured" | "fitted" | "assumed"
  /** How and with what it was made, for people. */
  readonly note: string
  /** What it was fitted to: for another model or degree it says less. */
  readonly fittedTo?:
    | { readonly model: string; readonly tensorParallel: number; readonly quantization?: string | undefined }
    | undefined
  /** Matrix products: rate against the rows that share a weight matrix. */
  readonly gemm: ReadonlyArray<RatePoint>
  /** Causal prefill attention: rate against the tokens of the prompt. */
  readonly attention: ReadonlyArray<RatePoint>
  /** What copies reach, 10¹² bytes per second. */
  readonly copyTeraBytes: number
  /** At what rate decode attention reads K and V, 10¹² bytes per second; as copies where nothing is said. */
  readonly keyTeraBytes?: number | undefined
  /**
   * Steps that decode and do nothing else: at what rate they read their weights, by rows, with all that they do besides but K, V and
   * all-reduces. Without, weights are read as copies are.
   */
  readonly decode?: ReadonlyArray<ReadPoint> | undefined
  /** Added by each row that decodes, its sampling for one, µs; nothing where it is in the rates of `decode`. */
  readonly decodeRowMicros?: number | undefined
  /** Added to a step that both decodes and prefills: what decoding takes more where it is not alone, µs. */
  readonly mixedMicros?: number | undefined
  /** Added to such a step by each row that decodes, µs. */
  readonly mixedRowMicros?: number | undefined
  /** What each selection takes beside its scores, µs. */
  readonly selectionMicros?: number | undefined
  /** Added behind a segment that selects, whatever the selections: until the host has read them and goes on, µs. */
  readonly readBackMicros?: number | undefined
  /** Rate of scoring, 10¹² FLOP per second; as the attention of the fewest tokens where nothing is said. */
  readonly scoreTeraFlops?: number | undefined
  /** Launches and everything else that a step takes whatever it holds, µs. */
  readonly stepMicros: number
  /** Added by each prefill item, µs. */
  readonly itemMicros: number
  /** What a layer takes at least: the launches of its operations, where the host issues them one by one, µs. */
  readonly layerMicros?: number | undefined
  /** All-reduces between tensor-parallel ranks. */
  readonly links?: ReadonlyArray<LinkCurve> | undefined
}

export interface RatePoint {
  /** Rows or tokens. */
  readonly at: number
  /** 10¹² FLOP per second. */
  readonly teraFlops: number
}

export interface ReadPoint {
  /** Rows. */
  readonly at: number
  /** 10¹² bytes per second. */
  readonly teraBytes: number
}

/** Time of an all-reduce by size, between so many ranks. */
export interface LinkCurve {
  readonly library: LinkLibrary
  readonly ranks: number
  /** `public`: others published the number. */
  readonly source: "measured" | "public" | "assumed"
  /** Ascending; the time of fewer bytes is that of the first point, of more on the line through the last two. */
  readonly points: ReadonlyArray<{ readonly bytes: number; readonly micros: number }>
}

export const linkLibraries = ["nccl", "peer-to-peer"] as const
export type LinkLibrary = (typeof linkLibraries)[number]

export class CalibrationError extends Error {
  constructor(message: string) {
    super(message)
    this.name = "CalibrationError"
  }
}

type Fields = Readonly<Record<string, unknown>>

const needed = ["format", "version", "device", "source", "note", "gemm", "attention", "copyTeraBytes"] as const
/** Numbers that may be missing: rates above 0, and times of at least 0. */
const rates = ["keyTeraBytes", "scoreTeraFlops"] as const
const times = ["layerMicros", "decodeRowMicros", "mixedMicros", "mixedRowMicros", "selectionMicros"] as const
const known: ReadonlyArray<string> = [...needed, ...rates, ...times, "fittedTo", "stepMicros", "itemMicros", "links"]
/** Fields that version 2 has not. */
const since3: ReadonlyArray<string> = ["decode", "readBackMicros"]

/**
 * Checks a parsed JSON value. Fails with {@link CalibrationError} naming the field.
 *
 * Version 2 had one time for all selections behind a segment, called `selectionMicros`: it is given as `readBackMicros`, by which the same
 * steps are predicted to take the same time.
 */
export const decodeCalibration = (value: unknown): Calibration => {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new CalibrationError("a calibration is a JSON object")
  }
  const file = value as Fields
  expectOneOf(file["format"], "format", ["uniprefill-calibration"])
  expectOneOf(file["version"], "version", [2, 3])
  const isOld = file["version"] === 2
  for (const field of Object.keys(file)) {
    if (known.includes(field) || (!isOld && since3.includes(field))) continue
    throw new CalibrationError(`unknown field ${JSON.stringify(field)}${isOld ? " of version 2" : ""}`)
  }
  for (const field of ["device", "note"]) {
    if (typeof file[field] !== "string") throw new CalibrationError(`${field} is missing or not a string`)
  }
  expectOneOf(file["source"], "source", ["measured", "fitted", "assumed"])
  checkPositive(file["copyTeraBytes"], "copyTeraBytes")
  for (const field of ["gemm", "attention"]) checkPoints(file[field], field, "at", "teraFlops")
  for (const field of ["stepMicros", "itemMicros"]) checkTime(file[field], field)
  for (const field of rates) if (file[field] !== undefined) checkPositive(file[field], field)
  for (const field of [...times, "readBackMicros"]) if (file[field] !== undefined) checkTime(file[field], field)
  if (file["decode"] !== undefined) checkPoints(file["decode"], "decode", "at", "teraBytes")
  if (file["fittedTo"] !== undefined) checkFittedTo(file["fittedTo"])
  if (file["links"] !== undefined) checkLinks(file["links"])
  return (isOld ? upgraded(file) : file) as unknown as Calibration
}

const upgraded = (file: Fields): Fields => {
  const { selectionMicros, ...same } = file
  return { ...same, version: 3, ...(selectionMicros === undefined ? {} : { readBackMicros: selectionMicros }) }
}

/** Every rate times `factor`; times that depend on no size stay. */
export const scaledCalibration = (calibration: Calibration, factor: number): Calibration => {
  if (factor === 1) return calibration
  const scaled = (points: ReadonlyArray<RatePoint>) =>
    points.map(({ at, teraFlops }) => ({ at, teraFlops: teraFlops * factor }))
  const { decode, keyTeraBytes, scoreTeraFlops } = calibration
  return {
    ...calibration,
    gemm: scaled(calibration.gemm),
    attention: scaled(calibration.attention),
    copyTeraBytes: calibration.copyTeraBytes * factor,
    ...(decode === undefined
      ? {}
      : { decode: decode.map(({ at, teraBytes }) => ({ at, teraBytes: teraBytes * factor })) }),
    ...(keyTeraBytes === undefined ? {} : { keyTeraBytes: keyTeraBytes * factor }),
    ...(scoreTeraFlops === undefined ? {} : { scoreTeraFlops: scoreTeraFlops * factor }),
  }
}

const expectOneOf = (value: unknown, field: string, expected: ReadonlyArray<unknown>): void => {
  if (expected.includes(value)) return
  const names = expected.map((one) => JSON.stringify(one)).join(" or ")
  throw new CalibrationError(`${field} is ${JSON.stringify(value)}, expected ${names}`)
}

const checkPositive = (value: unknown, field: string): number => {
  if (typeof value === "number" && Number.isFinite(value) && value > 0) return value
  throw new CalibrationError(`${field} is ${JSON.stringify(value)}, expected a number above 0`)
}

const checkTime = (value: unknown, field: string): void => {
  if (typeof value === "number" && Number.isFinite(value) && value >= 0) return
  throw new CalibrationError(`${field} is ${JSON.stringify(value)}, expected a number of at least 0`)
}

const checkPoints = (value: unknown, field: string, size: string, result: string): void => {
  if (!Array.isArray(value) || value.length === 0) throw new CalibrationError(`${field} is not a list of points`)
  let before = 0
  for (const [i, point] of (value as ReadonlyArray<Fields | null>).entries()) {
    const at = checkPositive(point?.[size], `${field}.${i}.${size}`)
    checkPositive(point?.[result], `${field}.${i}.${result}`)
    if (at <= before) throw new CalibrationError(`${field}.${i}.${size} is ${at} after ${before}; points ascend`)
    before = at
  }
}

const checkFittedTo = (value: unknown): void => {
  const fields = value as Fields | null
  if (typeof fields?.["model"] !== "string") throw new CalibrationError("fittedTo.model is missing or not a string")
  checkPositive(fields["tensorParallel"], "fittedTo.tensorParallel")
  if (!["string", "undefined"].includes(typeof fields["quantization"]))
    throw new CalibrationError("fittedTo.quantization is not a string")
}

const checkLinks = (value: unknown): void => {
  if (!Array.isArray(value)) throw new CalibrationError("links is not a list of curves")
  for (const [i, curve] of (value as ReadonlyArray<Fields | null>).entries()) {
    expectOneOf(curve?.["library"], `links.${i}.library`, linkLibraries)
    expectOneOf(curve?.["source"], `links.${i}.source`, ["measured", "public", "assumed"])
    checkPositive(curve?.["ranks"], `links.${i}.ranks`)
    checkPoints(curve?.["points"], `links.${i}.points`, "bytes", "micros")
  }
}
