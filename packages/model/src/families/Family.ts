import type { ModelSpec } from "../ModelSpec.ts"
import type { JsonObject } from "./Config.ts"

/** Models that are alike but for sizes and switches: how a config.json becomes a table, and what its tensors are called. */
export interface Family {
  /** Values of `architectures` that it reads. */
  readonly architectures: ReadonlyArray<string>
  /** Pure. Fails with ConfigFault naming the field. */
  readonly spec: (config: JsonObject, architecture: string) => ModelSpec
  /** `present`: names of the model's tensors, where files of one family differ in prefix or in how experts lie. */
  readonly tensors: (spec: ModelSpec, present: ReadonlySet<string>) => TensorNames
}

/** What the tensors of a model are called. */
export interface TensorNames {
  readonly embedding: string
  readonly finalNorm: string
  /** The embedding's where the two are tied. */
  readonly lmHead: string
  /** By role, in the order in which fingerprints read them. Experts that lie one by one have `{e}` for their number. */
  readonly layers: ReadonlyArray<Readonly<Record<string, string>>>
  /** Tensors that may be there and change nothing: exact names, prefixes that end in `*`, suffixes that begin with it. */
  readonly ignore: ReadonlyArray<string>
}
