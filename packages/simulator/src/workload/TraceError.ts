/** A trace that cannot be used, and where: `file:line: what`. */
export class TraceError extends Error {
  readonly file: string
  /** 1-based; 0 where the whole file is meant. */
  readonly line: number

  constructor(file: string, line: number, detail: string) {
    super(line > 0 ? `${file}:${line}: ${detail}` : `${file}: ${detail}`)
    this.name = "TraceError"
    this.file = file
    this.line = line
  }
}
