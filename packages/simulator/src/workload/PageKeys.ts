import { ceilDiv } from "@uniprefill/units/Units"
import type { Workload } from "./Workload.ts"

/**
 * Keys of the full pages that a prompt's shared blocks make, or undefined when the workload says nothing of prefixes. An
 * equal key means an equal page with an equal prefix: the id of the block that holds the page's last token stands for all
 * that comes before it.
 */
export const pageKeys = (workload: Workload, row: number, pageTokens: number): Array<number> | undefined => {
  const { blockTokens, blocks, blockStart } = workload
  if (blockTokens === 0) return undefined
  const first = blockStart[row]!
  const covered = (blockStart[row + 1]! - first) * blockTokens
  const pages = Math.floor(Math.min(covered, workload.promptTokens[row]!) / pageTokens)
  const pagesPerBlock = ceilDiv(blockTokens, pageTokens)
  const keys = new Array<number>(pages)
  for (let page = 0; page < pages; page++) {
    const last = (page + 1) * pageTokens - 1
    const block = Math.floor(last / blockTokens)
    const within = pagesPerBlock > 1 ? Math.floor((last - block * blockTokens) / pageTokens) : 0
    keys[page] = blocks[first + block]! * pagesPerBlock + within
  }
  return keys
}
