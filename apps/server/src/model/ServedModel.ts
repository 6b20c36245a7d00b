import type { GenerationDefaults } from "@uniprefill/model/ModelDirectory"
import type { Model } from "@uniprefill/openai/Model"
import { Context } from "effect"

/** The model as clients know it. */
export class ServedModel extends Context.Service<
  ServedModel,
  {
    /** The names it answers to; the first is the one it gives itself. At least one. */
    readonly names: ReadonlyArray<string>
    /** Where it came from. */
    readonly root: string
    /** When it was loaded, in seconds since 1970. */
    readonly createdSeconds: number
    readonly maxModelLen: number
    readonly vocabSize: number
    readonly eosTokenIds: ReadonlyArray<number>
    /** What requests use that say nothing. */
    readonly generation: GenerationDefaults
    /** p of each drop layer; none when the model is served dense. */
    readonly scheduleP: ReadonlyArray<number>
    /** The least p that a request may ask for; null: it may only raise the schedule's. */
    readonly pFloor: number | null
    /** p of requests whose first token would be late otherwise; null: none is lowered. */
    readonly sloP: number | null
    /** When the first token of a request that names no target is due, ms after its arrival. */
    readonly ttftSloMs: number | undefined
  }
>()("uniprefill/model/ServedModel") {}

export const describeModel = (served: ServedModel["Service"], name: string): Model => ({
  id: name,
  object: "model",
  created: served.createdSeconds,
  owned_by: "uniprefill",
  root: served.root,
  parent: null,
  max_model_len: served.maxModelLen,
  permission: [],
})
