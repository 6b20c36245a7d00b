import { IntMap } from "./IntMap.ts"
import type { Workload } from "./workload/Workload.ts"

export const routerKinds = ["round-robin", "least-loaded", "prefix-aware"] as const
export type RouterKind = (typeof routerKinds)[number]

/** Load of a replica as a router in front of it knows it. */
export interface ReplicaLoad {
  /** Requests sent and not ended. */
  readonly outstanding: number
  /** Their prompt tokens. */
  readonly outstandingTokens: number
  readonly isDown: boolean
}

/** Requests more than on the least loaded replica, beyond which a known prefix no longer decides. */
const prefixSlack = 8

/** Blocks after which those not seen since the last time are forgotten. */
const rememberedBlocks = 262_144

/** Sends requests to replicas. Deterministic; a replica that is down is passed over while another is up. */
export class Router {
  private readonly kind: RouterKind
  private readonly workload: Workload
  private next = 0
  /** The replica that a prefix block was last sent to: the blocks seen lately, and those before them. */
  private lately = new IntMap()
  private before = new IntMap()

  constructor(kind: RouterKind, workload: Workload) {
    this.kind = kind
    this.workload = workload
  }

  choose(row: number, replicas: ReadonlyArray<ReplicaLoad>): number {
    if (replicas.length === 1) return 0
    const up = replicas.flatMap((replica, i) => (replica.isDown ? [] : [i]))
    const candidates = up.length > 0 ? up : replicas.map((_, i) => i)
    const chosen = this.among(row, candidates, replicas)
    if (this.kind === "prefix-aware") this.remember(row, chosen)
    return chosen
  }

  private among(row: number, candidates: ReadonlyArray<number>, replicas: ReadonlyArray<ReplicaLoad>): number {
    if (this.kind === "round-robin") return candidates[this.next++ % candidates.length]!
    let least = candidates[0]!
    for (const i of candidates) if (isLighter(replicas[i]!, replicas[least]!)) least = i
    if (this.kind === "least-loaded") return least
    const hits = this.prefixHits(row, replicas.length)
    let best = least
    for (const i of candidates) {
      const withinSlack = replicas[i]!.outstanding <= replicas[least]!.outstanding + prefixSlack
      if (withinSlack && hits[i]! > hits[best]!) best = i
    }
    return best
  }

  /** Leading blocks of the prompt that each replica was sent last. */
  private prefixHits(row: number, replicas: number): ReadonlyArray<number> {
    const hits = new Array<number>(replicas).fill(0)
    const { blocks, blockStart } = this.workload
    const first = blockStart[row]!
    const end = blockStart[row + 1]!
    if (first === end) return hits
    const home = this.homeOf(blocks[first]!)
    if (home < 0) return hits
    let i = first + 1
    while (i < end && this.homeOf(blocks[i]!) === home) i++
    hits[home] = i - first
    return hits
  }

  /** −1 for a block that was not seen. */
  private homeOf(block: number): number {
    const home = this.lately.get(block)
    return home < 0 ? this.before.get(block) : home
  }

  private remember(row: number, replica: number): void {
    const { blocks, blockStart } = this.workload
    for (let i = blockStart[row]!; i < blockStart[row + 1]!; i++) this.lately.set(blocks[i]!, replica)
    if (this.lately.size < rememberedBlocks) return
    const forgotten = this.before
    this.before = this.lately
    this.lately = forgotten
    this.lately.clear()
  }
}

const isLighter = (a: ReplicaLoad, b: ReplicaLoad): boolean =>
  a.outstanding !== b.outstanding ? a.outstanding < b.outstanding : a.outstandingTokens < b.outstandingTokens
