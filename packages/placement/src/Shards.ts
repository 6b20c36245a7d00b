import type { AttentionSpec, DeltaSpec, LayerSpec, MixerSpec, MlpSpec, ModelSpec } from "@uniprefill/model/ModelSpec"

/** What one rank of a tensor-parallel group holds of an attention layer. Heads are half-open ranges. */
export interface Shard {
  readonly rank: number
  readonly heads: readonly [from: number, to: number]
  /** Where there are fewer KV heads than ranks, several ranks hold the same one. */
  readonly kvHeads: readonly [from: number, to: number]
  /** Columns of the MLP's inner layer; of every expert. */
  readonly inner: readonly [from: number, to: number]
  /** Elements of a carry row. */
  readonly hidden: readonly [from: number, to: number]
}

/** What of an attention layer is split. */
export interface Splittable {
  readonly heads: number
  readonly kvHeads: number
  readonly inner: number
  readonly hiddenSize: number
}

/** Why a layer cannot be split into `ranks` equal parts; null when it can. */
export const splitFault = ({ heads, kvHeads, inner, hiddenSize }: Splittable, ranks: number): string | null =>
  unevenFault({ heads, inner, hiddenSize }, ranks) ?? sharedFault("kvHeads", kvHeads, ranks)

/** Why a model cannot be split into `ranks` equal parts; null when it can. */
export const modelSplitFault = (spec: ModelSpec, ranks: number): string | null => {
  for (const layer of spec.layers) {
    const fault = layerSplitFault(spec.hiddenSize, layer, ranks)
    if (fault !== null) return fault
  }
  return null
}

const layerSplitFault = (hiddenSize: number, { mixer, mlp }: LayerSpec, ranks: number): string | null => {
  const { inner } = mlp
  const shared = mlp.kind === "moe" ? unevenFault({ sharedInner: mlp.sharedInner }, ranks) : null
  if (shared !== null) return shared
  if (mixer.kind !== "delta") return splitFault({ ...mixer, inner, hiddenSize }, ranks)
  const { keyHeads, valueHeads } = mixer
  return unevenFault({ valueHeads, inner, hiddenSize }, ranks) ?? sharedFault("keyHeads", keyHeads, ranks)
}

const sharedFault = (name: string, count: number, ranks: number): string | null =>
  count % ranks !== 0 && ranks % count !== 0
    ? `${name} ${count} can neither be split into ${ranks} equal parts nor repeated evenly on ${ranks} ranks`
    : null

const unevenFault = (counts: Readonly<Record<string, number>>, ranks: number): string | null => {
  for (const [name, count] of Object.entries(counts)) {
    if (count % ranks !== 0) return `${name} ${count} cannot be split into ${ranks} equal parts`
  }
  return null
}

/** KV heads that each rank holds. */
export const kvHeadsPerRank = ({ kvHeads }: Pick<Splittable, "kvHeads">, ranks: number): number =>
  Math.max(1, kvHeads / ranks)

/** Shards by rank. Requires: {@link splitFault} is null. */
export const shardsOf = (layer: Splittable, ranks: number): ReadonlyArray<Shard> =>
  Array.from({ length: ranks }, (_, rank) => {
    const part = (count: number) => [(count / ranks) * rank, (count / ranks) * (rank + 1)] as const
    const firstKvHead = Math.floor((layer.kvHeads * rank) / ranks)
    return {
      rank,
      heads: part(layer.heads),
      kvHeads: [firstKvHead, firstKvHead + kvHeadsPerRank(layer, ranks)],
      inner: part(layer.inner),
      hidden: part(layer.hiddenSize),
    }
  })

/** A model's attention layers that are split differently, one of each. */
export const splittablesOf = ({ hiddenSize, layers }: ModelSpec): ReadonlyArray<Splittable> => {
  const found = new Map<string, Splittable>()
  for (const { mixer, mlp } of layers) {
    if (mixer.kind === "delta") continue
    const { heads, kvHeads } = mixer
    found.set(`${heads} ${kvHeads} ${mlp.inner}`, { heads, kvHeads, inner: mlp.inner, hiddenSize })
  }
  return [...found.values()]
}

/** The table of layers that one rank computes; the residual stream is whole. Requires: {@link modelSplitFault} is null. */
export const rankSpec = (spec: ModelSpec, ranks: number): ModelSpec => ({
  ...spec,
  layers: spec.layers.map((layer) => ({
    ...layer,
    mixer: rankMixer(layer.mixer, ranks),
    mlp: rankMlp(layer.mlp, ranks),
  })),
})

const rankMixer = (mixer: MixerSpec, ranks: number): AttentionSpec | DeltaSpec =>
  mixer.kind === "delta"
    ? { ...mixer, keyHeads: Math.max(1, mixer.keyHeads / ranks), valueHeads: mixer.valueHeads / ranks }
    : { ...mixer, heads: mixer.heads / ranks, kvHeads: kvHeadsPerRank(mixer, ranks) }

const rankMlp = (mlp: MlpSpec, ranks: number): MlpSpec =>
  mlp.kind === "moe"
    ? { ...mlp, inner: mlp.inner / ranks, sharedInner: mlp.sharedInner / ranks }
    : { ...mlp, inner: mlp.inner / ranks }
