import type { PageKeyList } from "@uniprefill/scheduler/PrefixTree"
import { ceilDiv } from "@uniprefill/units/Units"
import type { Workload } from "./Workload.ts"

/**
 * Keys of the full pages that prompts' shared blocks make. An equal key means an equal page with an equal prefix: the id of the
 * block that holds the page's last token stands for all that comes before it.
 */
export class PageKeys {
  private readonly workload: Workload
  private readonly pageTokens: number
  private readonly pagesPerBlock: number

  constructor(workload: Workload, pageTokens: number) {
    this.workload = workload
    this.pageTokens = pageTokens
    this.pagesPerBlock = workload.blockTokens === 0 ? 0 : ceilDiv(workload.blockTokens, pageTokens)
  }

  /** Of a row's prompt; undefined when the workload says nothing of prefixes. */
  of(row: number): PageKeyList | undefined {
    const { blockTokens, blockStart, promptTokens } = this.workload
    if (blockTokens === 0) return undefined
    const first = blockStart[row]!
    const covered = (blockStart[row + 1]! - first) * blockTokens
    return new BlockKeys(this, first, Math.floor(Math.min(covered, promptTokens[row]!) / this.pageTokens))
  }

  /** The key of a page of a prompt whose blocks begin with number `first`. */
  at(first: number, page: number): number {
    const { pageTokens, pagesPerBlock, workload } = this
    const { blockTokens, blocks } = workload
    const last = (page + 1) * pageTokens - 1
    const block = Math.floor(last / blockTokens)
    const within = pagesPerBlock > 1 ? Math.floor((last - block * blockTokens) / pageTokens) : 0
    return blocks[first + block]! * pagesPerBlock + within
  }
}

/** Worked out where they are asked for: a request that waits holds none. */
class BlockKeys implements PageKeyList {
  readonly length: number
  private readonly keys: PageKeys
  private readonly first: number

  constructor(keys: PageKeys, first: number, length: number) {
    this.length = length
    this.keys = keys
    this.first = first
  }

  at(page: number): number | undefined {
    return page < this.length ? this.keys.at(this.first, page) : undefined
  }
}
