/** What a check found: `rule` names the check, `line` is 1-based, 0 for the whole file. */
export interface Violation {
  readonly rule: string
  readonly file: string
  readonly line: number
  readonly message: string
}

/** One line per violation, so that a failing assertion reads as a report. */
export const render = (violations: ReadonlyArray<Violation>): ReadonlyArray<string> =>
  violations.map(({ rule, file, line, message }) => `${file}:${line} ${rule}: ${message}`)
