import { Context, Effect, Layer } from "effect"

/** Request fields that this server does not know: accepted, without effect, and each logged once. */
export class UnknownFields extends Context.Service<
  UnknownFields,
  { readonly report: (fields: ReadonlyArray<string>) => Effect.Effect<void> }
>()("uniprefill/http/UnknownFields") {
  /** Remembers `capacity` names; further ones are not logged. */
  static readonly layer = (capacity: number): Layer.Layer<UnknownFields> =>
    Layer.sync(UnknownFields, () => {
      const seen = new Set<string>()
      return {
        report: (fields) =>
          Effect.forEach(
            // A body may have tens of thousands.
            fields.slice(0, capacity).filter((field) => !seen.has(field)),
            (field) => {
              if (seen.has(field) || seen.size >= capacity) return Effect.void
              seen.add(field)
              return Effect.logWarning("request field has no effect here").pipe(Effect.annotateLogs({ field }))
            },
            { discard: true },
          ),
      }
    })
}
