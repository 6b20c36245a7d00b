import type { TokenList } from "@uniprefill/scheduler/Actions"
import { IntList } from "@uniprefill/scheduler/IntList"
import type { Request } from "@uniprefill/scheduler/Request"
import type { GapHistogram } from "./GapHistogram.ts"
import type { RequestLog } from "./RequestLog.ts"

/**
 * When a replica's requests get their tokens: the first, the last, and the gaps between.
 *
 * From one step to the next nearly every request keeps its place in the list of tokens, and those that do have the same gap. They
 * are written to the log when they leave their places, or when it is to be read.
 */
export class TokenTimes {
  private readonly log: RequestLog
  private readonly gaps: GapHistogram
  /** Row of the workload of a request of the replica. */
  private readonly rowOf: (id: number) => number
  /** By place in the list of the last step: whose it is, and the longest gap since it is. */
  private readonly requests: Array<Request> = []
  private maxGaps = new Float64Array(64)
  private count = 0
  /** When that step ended. */
  private lastMicros = 0
  /** Places that are somebody else's now. */
  private readonly changed = new IntList()

  constructor(log: RequestLog, gaps: GapHistogram, rowOf: (id: number) => number) {
    this.log = log
    this.gaps = gaps
    this.rowOf = rowOf
  }

  /** A step's tokens are there. */
  add({ requests: owners, length }: TokenList, nowMicros: number): void {
    if (length === 0) return
    const { requests, changed } = this
    if (length > this.maxGaps.length) {
      const larger = new Float64Array(Math.max(length, 2 * this.maxGaps.length))
      larger.set(this.maxGaps)
      this.maxGaps = larger
    }
    const { maxGaps } = this
    const gap = nowMicros - this.lastMicros
    const staying = Math.min(length, this.count)
    changed.clear()
    for (let place = 0; place < staying; place++) {
      if (requests[place] !== owners[place]) changed.push(place)
      else if (gap > maxGaps[place]!) maxGaps[place] = gap
    }
    const same = staying - changed.length
    if (same > 0) this.gaps.add(gap, same)
    for (let i = 0; i < changed.length; i++) this.write(changed.data[i]!)
    for (let place = length; place < this.count; place++) this.write(place)
    // Only now is the log right for those who moved.
    for (let i = 0; i < changed.length; i++) this.put(owners[changed.data[i]!]!, changed.data[i]!, nowMicros)
    for (let place = this.count; place < length; place++) this.put(owners[place]!, place, nowMicros)
    this.count = length
    this.lastMicros = nowMicros
  }

  /** The log is to be read. */
  flush(): void {
    for (let place = 0; place < this.count; place++) this.write(place)
  }

  private write(place: number): void {
    const { log } = this
    const row = this.rowOf(this.requests[place]!.id)
    log.lastToken[row] = this.lastMicros
    log.maxGap[row] = Math.max(log.maxGap[row]!, this.maxGaps[place]!)
  }

  /** A request has its first token, or one at another place than the one before. */
  private put(request: Request, place: number, nowMicros: number): void {
    const { log } = this
    const row = this.rowOf(request.id)
    this.requests[place] = request
    if (request.outputs === 1) {
      log.firstToken[row] = nowMicros
      this.maxGaps[place] = 0
      return
    }
    const gap = nowMicros - log.lastToken[row]!
    this.gaps.add(gap, 1)
    this.maxGaps[place] = gap
  }
}
