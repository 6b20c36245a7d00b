import type { Request } from "./Request.ts"

/** Requests of one priority that wait, and the tokens of their prompts. */
export interface Level {
  waiting: number
  waitingTokens: number
}

/** Counts requests that wait by their priority. */
export class Levels {
  private counted: Map<number, Level> | null = null

  /** Undefined for a priority of which none waits. */
  of(priority: number): Level | undefined {
    return this.counted?.get(priority)
  }

  /** Every priority of which one waits. */
  get all(): Iterable<readonly [number, Level]> {
    return this.counted ?? []
  }

  add({ priority, promptLength }: Request): void {
    this.counted ??= new Map()
    let level = this.counted.get(priority)
    if (level === undefined) this.counted.set(priority, (level = { waiting: 0, waitingTokens: 0 }))
    level.waiting++
    level.waitingTokens += promptLength
  }

  /** Requires that it was added. */
  remove({ priority, promptLength }: Request): void {
    const level = this.counted!.get(priority)!
    level.waitingTokens -= promptLength
    if (--level.waiting === 0) this.counted!.delete(priority)
  }
}
