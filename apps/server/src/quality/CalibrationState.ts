import { appendFile, readFile, truncate } from "node:fs/promises"
import { Effect } from "effect"
import { UsageError } from "../cli/UsageError.ts"
import type { Path } from "./Divergence.ts"
import type { Measure } from "./CalibrationVerdict.ts"

export interface DenseAnswer extends Path {
  readonly isRight: boolean
}

type Line =
  | { readonly about: string }
  | { readonly case: string; readonly dense: DenseAnswer }
  | { readonly case: string; readonly key: string; readonly measure: Measure }

/** What a calibration has measured, kept in a file line by line, so that one that was ended goes on where it was. */
export class CalibrationState {
  readonly dense = new Map<string, DenseAnswer>()
  /** By drop layers, then by prompt. */
  private readonly measures = new Map<string, Map<string, Measure>>()
  private readonly file: string

  private constructor(file: string) {
    this.file = file
  }

  /**
   * Takes up what the file has, if it is of the same measurement. Fails with UsageError where it is of another one. A last line that was
   * cut off is taken off the file.
   */
  static open(file: string, about: string): Effect.Effect<CalibrationState, UsageError> {
    return Effect.tryPromise({
      try: async () => {
        const state = new CalibrationState(file)
        const text = await readFile(file, "utf8").catch(() => "")
        const whole = text.slice(0, text.lastIndexOf("\n") + 1)
        if (whole !== text) await truncate(file, Buffer.byteLength(whole))
        const lines = whole.split("\n").slice(0, -1)
        if (lines.length === 0) {
          await state.append({ about })
          return state
        }
        const [head, ...rest] = lines.map((line) => JSON.parse(line) as Line)
        if (!("about" in head!) || head.about !== about)
          throw new Error("it is of another model or other options; remove it to begin anew")
        for (const line of rest) state.take(line)
        return state
      },
      catch: (cause) => new UsageError({ message: `${file}: ${(cause as Error).message}` }),
    })
  }

  measure(key: string, of: string): Measure | undefined {
    return this.measures.get(key)?.get(of)
  }

  /** Those of some prompts, in their order. */
  measuresOf(key: string, cases: ReadonlyArray<{ readonly id: string }>): ReadonlyArray<Measure> {
    const own = this.measures.get(key)
    return own === undefined ? [] : cases.flatMap(({ id }) => own.get(id) ?? [])
  }

  keepDense(of: string, dense: DenseAnswer): Effect.Effect<void> {
    return this.add({ case: of, dense })
  }

  keep(key: string, of: string, measure: Measure): Effect.Effect<void> {
    return this.add({ case: of, key, measure })
  }

  private add(line: Line): Effect.Effect<void> {
    this.take(line)
    return Effect.promise(() => this.append(line))
  }

  private take(line: Line): void {
    if ("dense" in line) this.dense.set(line.case, line.dense)
    else if ("measure" in line) {
      const own = this.measures.get(line.key) ?? new Map<string, Measure>()
      this.measures.set(line.key, own.set(line.case, line.measure))
    }
  }

  private append(line: Line): Promise<void> {
    return appendFile(this.file, `${JSON.stringify(line)}\n`)
  }
}
