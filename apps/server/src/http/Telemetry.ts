import { Layer, References } from "effect"
import { FetchHttpClient } from "effect/http"
import { Otlp, OtlpSerialization } from "effect/observability"
import { version } from "../Version.ts"

/** Nobody looks at spans: none are made. */
export const none = Layer.succeed(References.TracerEnabled, false)

/** Sends traces, logs and metrics to an OpenTelemetry collector; logs also stay where they are. */
export const layer = (baseUrl: string) =>
  Otlp.layer({
    baseUrl,
    resource: { serviceName: "uniprefill", serviceVersion: version },
    loggerMergeWithExisting: true,
  }).pipe(Layer.provide([FetchHttpClient.layer, OtlpSerialization.layerJson]))
