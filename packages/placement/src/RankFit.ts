import { type RankMemory, rankMemory, type RankMemoryOptions } from "./RankMemory.ts"
import { modelSplitFault } from "./Shards.ts"

export interface RankFitOptions extends RankMemoryOptions {
  /** Memory of one device. */
  readonly memoryBytes: number
  /** Share of it that may be used. */
  readonly memoryUtilization: number
}

/** What a rank holds, and what is left. */
export interface RankFit {
  readonly memory: RankMemory
  /** Bytes of the device that may be used. */
  readonly usableBytes: number
  /** Slabs in what the rest leaves: all ranks hold the same number. At least 1. */
  readonly slabs: number
}

/** Why a model cannot be on so many ranks, with the numbers. */
export interface RankMisfit {
  readonly reason: "Split" | "Weights"
  readonly detail: string
}

/**
 * The memory of one of `ranks` devices that share a model. Fails with RangeError for a share of memory or a page size that
 * is none.
 */
export const fitRank = (options: RankFitOptions, ranks: number): RankFit | RankMisfit => {
  const { spec, memoryBytes, memoryUtilization } = options
  if (!(memoryUtilization > 0 && memoryUtilization <= 1)) {
    throw new RangeError(`memoryUtilization must be above 0 and at most 1, got ${memoryUtilization}`)
  }
  const fault = modelSplitFault(spec, ranks)
  if (fault !== null) return { reason: "Split", detail: fault }
  const memory = rankMemory(options, ranks)
  const usableBytes = Math.floor(memoryBytes * memoryUtilization)
  const fixed = memory.weights + memory.states + memory.workspace + memory.reserve
  const slabs = Math.floor((usableBytes - fixed) / memory.layout.slabBytes)
  if (slabs >= 1) return { memory, usableBytes, slabs }
  return {
    reason: "Weights",
    detail: `${showParts(memory)} make ${showBytes(fixed)} a device; ${showBytes(usableBytes)} can be used`,
  }
}

/** What a rank holds besides slabs, in words. */
export const showParts = ({ weights, states, workspace, reserve }: RankMemory): string => {
  const recurrent = states > 0 ? [`states ${showBytes(states)}`] : []
  const parts = [`weights ${showBytes(weights)}`, ...recurrent, `workspace ${showBytes(workspace)}`]
  return `${parts.join(", ")} and reserve ${showBytes(reserve)}`
}

export const showBytes = (bytes: number): string =>
  bytes >= 1e8 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(2)} MB`
