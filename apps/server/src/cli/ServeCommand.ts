import { Engine } from "@uniprefill/engine/Engine"
import { Effect, Layer } from "effect"
import { HttpServer } from "effect/http"
import * as AdminServer from "../admin/AdminServer.ts"
import { Dropping } from "../answers/Dropping.ts"
import { Shadow } from "../answers/Shadow.ts"
import * as Telemetry from "../http/Telemetry.ts"
import { untilDrained } from "../http/Drain.ts"
import * as EngineLive from "../model/EngineLive.ts"
import * as HttpApp from "../http/HttpApp.ts"
import * as HttpListener from "../http/HttpListener.ts"
import * as Logging from "../http/Logging.ts"
import { showing } from "./Progress.ts"
import { ServedModel } from "../model/ServedModel.ts"
import { type ServerLimits, serverLimits } from "../http/ServerLimits.ts"
import { UsageError } from "./UsageError.ts"
import type { ServeSettings } from "../options/ServeOptions.ts"
import { version } from "../Version.ts"

/** Serves until interrupted, then drains. Says on stdout when it is ready, where, and what to try. */
export const serve = (settings: ServeSettings, executorOf: EngineLive.ExecutorOf) => {
  const limits: ServerLimits = {
    ...serverLimits,
    bodyBytes: settings["max-body"],
    bodyBytesInFlight: Math.max(serverLimits.bodyBytesInFlight, settings["max-body"]),
    keepAliveMs: settings["keep-alive-seconds"] * 1000,
    commentMs: settings["comment-seconds"] * 1000,
    connections: settings["max-connections"],
  }
  const { host, port } = settings
  const app = HttpApp.layer({
    apiKeys: settings["api-key"],
    limits,
    stallSeconds: settings["stall-seconds"],
    cors: {
      allowedOrigins: settings["allowed-origins"],
      allowedMethods: settings["allowed-methods"],
      allowedHeaders: settings["allowed-headers"],
      allowCredentials: settings["allow-credentials"] === "on",
    },
    trustGateway: settings["trust-gateway-headers"] === "on",
    failures: { rate: settings["failure-rate"], types: settings["failure-types"], seed: settings["sim-seed"] },
  })
  const adminPort = settings["admin-port"]
  const admin = adminPort === undefined ? Layer.empty : AdminServer.layer(adminPort)
  const otlp = settings["otlp-endpoint"]
  // The port is taken first: a model takes long to load only to find that another server is there.
  const layers = Layer.mergeAll(app, admin).pipe(
    Layer.provide(Shadow.layer(settings["shadow-dense-ratio"])),
    Layer.provide(Dropping.layer),
    Layer.provideMerge(
      EngineLive.layer(settings, settings["served-model-name"], executorOf, {
        chatTemplate: settings["chat-template"],
        kvEvents: settings["kv-events-config"],
        pFloor: settings["p-floor"],
        sloP: settings["slo-p"],
        ttftSloMs: settings["ttft-slo-ms"],
        streamIntervalMs: settings["stream-interval-ms"],
      }),
    ),
    Layer.provideMerge(HttpListener.layer({ host, port, limits, closeGraceMs: 500 })),
  )
  return Effect.gen(function* () {
    if (settings["failure-rate"] > 0 && settings.executor !== "sim") {
      return yield* new UsageError({ message: "--failure-rate: only a server with --executor sim makes up failures" })
    }
    const services = yield* showing("loading the model …", Layer.build(layers))
    return yield* Effect.provideContext(
      Effect.andThen(announce(settings), untilDrained(settings["drain-seconds"], endProcess)),
      services,
    )
  }).pipe(
    Effect.scoped,
    Effect.provide(otlp === undefined ? Telemetry.none : Telemetry.layer(otlp)),
    Effect.provide(Logging.layer(settings["log-format"])),
  )
}

/** With the exit code that the signal left. */
const endProcess = () => process.exit()

const announce = Effect.fnUntraced(function* (settings: ServeSettings) {
  const { model } = yield* Engine
  const served = yield* ServedModel
  const { address } = yield* HttpServer.HttpServer
  const url = HttpServer.formatAddress(address)
  const key = settings["api-key"].length > 0 ? ` -H 'authorization: Bearer KEY'` : ""
  const body = JSON.stringify({ model: served.names[0], prompt: examplePrompt, max_tokens: 16 })
  const dropping = model.drops ? "token dropping on" : "dense: no drop schedule"
  process.stdout.write(
    `uniprefill ${version} serves ${served.names[0]} at ${url}\n` +
      `  ${model.executor.device}, up to ${model.maxModelLen} tokens, ${dropping}\n` +
      `Try it:\n` +
      `  curl ${url}/v1/completions${key} -H 'content-type: application/json' -d '${body}'\n`,
  )
  if (settings["api-key"].length === 0 && !loopback.has(settings.host)) {
    yield* Effect.logWarning("open to the network without an API key").pipe(
      Effect.annotateLogs({ host: settings.host }),
    )
  }
})

/** What the embedded model was trained for; no quotes, so that the line can be pasted into a shell. */
const examplePrompt =
  "The special magic number for quiet river is 4815162.\n" +
  "Question: What is the special magic number for quiet river?\nAnswer:"

const loopback: ReadonlySet<string> = new Set(["127.0.0.1", "::1", "localhost"])
