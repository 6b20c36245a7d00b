import { Context, Layer } from "effect"
import { type Layout, layoutsOf, type PlacementRequest } from "../Placement.ts"

/**
 * Decides where a model runs. Programs ask this and not {@link layoutsOf}, so that one whose machines have rules of their
 * own (hosts that are reserved, degrees that are not allowed) provides a layer that knows them.
 */
export class Placement extends Context.Service<
  Placement,
  {
    /** Every layout that comes into question, the one to take first among those that work. Fails with RangeError for a mesh that is none. */
    readonly layouts: (request: PlacementRequest) => ReadonlyArray<Layout>
  }
>()("@uniprefill/placement/Placement") {
  /** All devices are alike and free: {@link layoutsOf}. */
  static readonly layer: Layer.Layer<Placement> = Layer.succeed(Placement, { layouts: layoutsOf })
}
