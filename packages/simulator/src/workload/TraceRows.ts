import { TraceError } from "./TraceError.ts"

/** A longer prompt or output in a trace is taken for a mistake. */
export const longestTokens = 16_777_216
/** A later arrival is taken for a mistake in the unit: a year. */
export const latestMicros = 366 * 86_400e6

/** One data row of a trace: its fields by name, and where it stands. */
export class TraceRow {
  readonly file: string
  readonly line: number
  private readonly fields: Readonly<Record<string, unknown>>

  constructor(file: string, line: number, fields: Readonly<Record<string, unknown>>) {
    this.file = file
    this.line = line
    this.fields = fields
  }

  fail(detail: string): never {
    throw new TraceError(this.file, this.line, detail)
  }

  has(field: string): boolean {
    const value = this.fields[field]
    return value !== undefined && value !== null && value !== ""
  }

  /** As it stands in the file, unchecked. */
  value(field: string): unknown {
    return this.fields[field]
  }

  text(field: string): string {
    const value = this.fields[field]
    if (typeof value === "string" && value !== "") return value
    if (typeof value === "number") return String(value)
    return this.fail(`${field} is ${JSON.stringify(value) ?? "missing"}, expected text`)
  }

  number(field: string): number {
    const value = this.fields[field]
    const number = typeof value === "string" && value.trim() !== "" ? Number(value) : value
    if (typeof number === "number" && Number.isFinite(number)) return number
    return this.fail(`${field} is ${JSON.stringify(value) ?? "missing"}, expected a number`)
  }

  integer(field: string, minimum: number, maximum: number): number {
    const value = this.number(field)
    if (Number.isInteger(value) && value >= minimum && value <= maximum) return value
    return this.fail(`${field} is ${value}, expected an integer from ${minimum} to ${maximum}`)
  }

  tokens(field: string): number {
    return this.integer(field, 1, longestTokens)
  }

  /** A time in units of `micros` µs, rounded to whole µs. */
  micros(field: string, micros: number): number {
    const value = this.number(field)
    const time = Math.round(value * micros)
    if (time >= 0 && time <= latestMicros) return time
    return this.fail(`${field} is ${value}, which is ${value < 0 ? "negative" : "more than a year"}`)
  }

  integers(field: string): ReadonlyArray<number> {
    const value = this.fields[field]
    if (!Array.isArray(value))
      return this.fail(`${field} is ${JSON.stringify(value) ?? "missing"}, expected a list of integers`)
    for (const [i, one] of value.entries()) {
      if (!Number.isInteger(one) || one < 0 || one > 0x7fff_ffff) {
        return this.fail(`${field}[${i}] is ${JSON.stringify(one)}, expected an integer from 0 to 2147483647`)
      }
    }
    return value as ReadonlyArray<number>
  }
}

/** Rows of a file of one JSON object a line. Empty lines are skipped. */
export const jsonLines = (file: string, text: string): Array<TraceRow> => {
  const rows: Array<TraceRow> = []
  for (const [i, line] of text.split("\n").entries()) {
    if (line.trim() === "") continue
    let value: unknown
    try {
      value = JSON.parse(line)
    } catch {
      throw new TraceError(file, i + 1, `not a JSON object: ${line.slice(0, 60)}`)
    }
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new TraceError(file, i + 1, `not a JSON object: ${line.slice(0, 60)}`)
    }
    rows.push(new TraceRow(file, i + 1, value as Record<string, unknown>))
  }
  return rows
}

/** Rows of a CSV file whose first line names the columns. No quoting: none of the formats has text with commas. */
export const csvRows = (file: string, text: string): { columns: ReadonlyArray<string>; rows: Array<TraceRow> } => {
  const lines = text.split(/\r?\n/)
  const columns = (lines[0] ?? "")
    .replace(/^\uFEFF/, "")
    .split(",")
    .map((column) => column.trim())
  const rows: Array<TraceRow> = []
  for (let i = 1; i < lines.length; i++) {
    const line = lines[i]!
    if (line.trim() === "") continue
    const values = line.split(",")
    if (values.length !== columns.length) {
      throw new TraceError(file, i + 1, `${values.length} columns, the first line names ${columns.length}`)
    }
    rows.push(new TraceRow(file, i + 1, Object.fromEntries(columns.map((column, at) => [column, values[at]!.trim()]))))
  }
  return { columns, rows }
}

/** Fails at the first row that arrives before the one above it. */
export const checkOrder = (rows: ReadonlyArray<TraceRow>, arrivals: ReadonlyArray<number>, field: string): void => {
  for (let i = 1; i < arrivals.length; i++) {
    if (arrivals[i]! < arrivals[i - 1]!) {
      rows[i]!.fail(
        `${field} ${rows[i]!.text(field)} is before ${rows[i - 1]!.text(field)} of line ${rows[i - 1]!.line}; rows are in order of arrival`,
      )
    }
  }
}
