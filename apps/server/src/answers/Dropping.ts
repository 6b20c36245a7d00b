import { Context, Layer } from "effect"

/** Whether token dropping is on: an operator may turn it off and on while the server runs. */
export class Dropping extends Context.Service<Dropping, { enabled: boolean }>()("uniprefill/Dropping") {
  static readonly layer: Layer.Layer<Dropping> = Layer.sync(Dropping, () => ({ enabled: true }))
}
