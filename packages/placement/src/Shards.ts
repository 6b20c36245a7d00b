import type { ModelSpec } from "@uniprefill/model/ModelSpec"

/** What one rank of a tensor-parallel group holds. Heads are half-open ranges. */
export interface Shard {
  readonly rank: number
  readonly heads: readonly [from: number, to: number]
  /** Where there are fewer KV heads than ranks, several ranks hold the same one. */
  readonly kvHeads: readonly [from: number, to: number]
  /** Columns of the MLP's inner layer. */
  readonly intermediate: readonly [from: number, to: number]
  /** Elements of a carry row. */
  readonly hidden: readonly [from: number, to: number]
}

/** What of a model is split. */
export type Splittable = Pick<ModelSpec, "heads" | "kvHeads" | "intermediateSize" | "hiddenSize">

/** Why a model cannot be split into `ranks` equal parts; null when it can. */
export const splitFault = (spec: Splittable, ranks: number): string | null => {
  const { heads, kvHeads, intermediateSize, hiddenSize } = spec
  for (const [name, count] of Object.entries({ heads, intermediateSize, hiddenSize })) {
    if (count % ranks !== 0) return `${name} ${count} cannot be split into ${ranks} equal parts`
  }
  if (kvHeads % ranks !== 0 && ranks % kvHeads !== 0) {
    return `kvHeads ${kvHeads} can neither be split into ${ranks} equal parts nor repeated evenly on ${ranks} ranks`
  }
  return null
}

/** KV heads that each rank holds. */
export const kvHeadsPerRank = (spec: Splittable, ranks: number): number => Math.max(1, spec.kvHeads / ranks)

/** Shards by rank. Requires: {@link splitFault} is null. */
export const shardsOf = (spec: Splittable, ranks: number): ReadonlyArray<Shard> =>
  Array.from({ length: ranks }, (_, rank) => {
    const part = (count: number) => [(count / ranks) * rank, (count / ranks) * (rank + 1)] as const
    const firstKvHead = Math.floor((spec.kvHeads * rank) / ranks)
    return {
      rank,
      heads: part(spec.heads),
      kvHeads: [firstKvHead, firstKvHead + kvHeadsPerRank(spec, ranks)],
      intermediate: part(spec.intermediateSize),
      hidden: part(spec.hiddenSize),
    }
  })
