import { Context, Effect, Layer, Schema } from "effect"
import { place, type PlacementPlan, type PlacementRequest } from "../Placement.ts"

/** No layout fits: each that was considered, and why it does not. Or the request itself is at fault. */
export class PlacementError extends Schema.TaggedError<PlacementError>()("PlacementError", {
  reason: Schema.Literals(["NoFit", "InvalidRequest"]),
  detail: Schema.String,
}) {
  override get message(): string {
    return this.detail
  }
}

/** Decides where a model runs. */
export class Placement extends Context.Service<
  Placement,
  { readonly place: (request: PlacementRequest) => Effect.Effect<PlacementPlan, PlacementError> }
>()("@uniprefill/placement/Placement") {
  static readonly layer: Layer.Layer<Placement> = Layer.succeed(Placement, {
    place: (request) =>
      Effect.gen(function* () {
        const outcome = yield* Effect.try({
          try: () => place(request),
          catch: (cause) => new PlacementError({ reason: "InvalidRequest", detail: (cause as Error).message }),
        })
        if (outcome._tag === "Placed") return outcome.plan
        const detail = outcome.misfits.map((one) => `tensor parallel ${one.tensorParallel}: ${one.detail}`).join("; ")
        return yield* new PlacementError({ reason: "NoFit", detail })
      }),
  })
}
