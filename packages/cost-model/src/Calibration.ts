/**
 * What a device was measured to do, operation by operation: the content of a `*.calibration.json` file.
 *
 * Each curve is a list of measured points, ascending in what it depends on. Between two points the rate is interpolated
 * linearly; beyond the ends it is that of the nearest point, and predictions there are flagged as outside the range.
 */
export interface Calibration {
  readonly format: "uniprefill-calibration"
  readonly version: 1
  /** Name of the device it was measured on. */
  readonly device: string
  /** How and with what it was measured, for people. */
  readonly note: string
  /** Matrix products: rate against the rows that share a weight matrix. */
  readonly gemm: ReadonlyArray<RatePoint>
  /** Causal prefill attention: rate against the tokens of the prompt. */
  readonly attention: ReadonlyArray<RatePoint>
  /** What copies reach, 10¹² bytes per second. */
  readonly copyTeraBytes: number
}

export interface RatePoint {
  /** Rows or tokens. */
  readonly at: number
  /** 10¹² FLOP per second. */
  readonly teraFlops: number
}

export class CalibrationError extends Error {
  constructor(message: string) {
    super(message)
    this.name = "CalibrationError"
  }
}

/** Checks a parsed JSON value. Fails with {@link CalibrationError} naming the field. */
export const decodeCalibration = (value: unknown): Calibration => {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new CalibrationError("a calibration is a JSON object")
  }
  const file = value as Record<string, unknown>
  const known = ["format", "version", "device", "note", "gemm", "attention", "copyTeraBytes"]
  for (const field of Object.keys(file)) {
    if (!known.includes(field)) throw new CalibrationError(`unknown field ${JSON.stringify(field)}`)
  }
  expectValue(file, "format", "uniprefill-calibration")
  expectValue(file, "version", 1)
  for (const field of ["device", "note"]) {
    if (typeof file[field] !== "string") throw new CalibrationError(`${field} is missing or not a string`)
  }
  checkPositive(file["copyTeraBytes"], "copyTeraBytes")
  for (const field of ["gemm", "attention"]) checkCurve(file[field], field)
  return file as unknown as Calibration
}

const expectValue = (file: Record<string, unknown>, field: string, expected: unknown): void => {
  if (file[field] === expected) return
  throw new CalibrationError(`${field} is ${JSON.stringify(file[field])}, expected ${JSON.stringify(expected)}`)
}

const checkPositive = (value: unknown, field: string): void => {
  if (typeof value === "number" && Number.isFinite(value) && value > 0) return
  throw new CalibrationError(`${field} is ${JSON.stringify(value)}, expected a number above 0`)
}

const checkCurve = (value: unknown, field: string): void => {
  if (!Array.isArray(value) || value.length === 0) throw new CalibrationError(`${field} is not a list of points`)
  let before = 0
  for (const [i, point] of (value as ReadonlyArray<Record<string, unknown> | null>).entries()) {
    checkPositive(point?.["at"], `${field}.${i}.at`)
    checkPositive(point?.["teraFlops"], `${field}.${i}.teraFlops`)
    const at = point!["at"] as number
    if (at <= before) throw new CalibrationError(`${field}.${i}.at is ${at} after ${before}; points ascend`)
    before = at
  }
}
