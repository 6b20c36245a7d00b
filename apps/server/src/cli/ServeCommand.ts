import { Engine } from "@uniprefill/engine/Engine"
import { Effect, Layer } from "effect"
import { HttpServer } from "effect/http"
import { untilDrained } from "../http/Drain.ts"
import * as EngineLive from "../model/EngineLive.ts"
import * as HttpApp from "../http/HttpApp.ts"
import * as HttpListener from "../http/HttpListener.ts"
import * as Logging from "../http/Logging.ts"
import { showing } from "./Progress.ts"
import { ServedModel } from "../model/ServedModel.ts"
import { type ServerLimits, serverLimits } from "../http/ServerLimits.ts"
import type { ServeSettings } from "../options/ServeOptions.ts"
import { version } from "../Version.ts"

/** Serves until interrupted, then drains. Says on stdout when it is ready, where, and what to try. */
export const serve = (settings: ServeSettings, executorOf: EngineLive.ExecutorOf) => {
  const limits: ServerLimits = { ...serverLimits, bodyBytes: settings["max-body"] }
  const { host, port } = settings
  const app = HttpApp.layer({ apiKeys: settings["api-key"], limits, stallSeconds: settings["stall-seconds"] })
  // The port is taken first: a model takes long to load only to find that another server is there.
  const layers = app.pipe(
    Layer.provideMerge(EngineLive.layer(settings, settings["served-model-name"], executorOf)),
    Layer.provideMerge(HttpListener.layer({ host, port, limits, closeGraceMs: 500 })),
  )
  return Effect.gen(function* () {
    const services = yield* showing("loading the model …", Layer.build(layers))
    return yield* Effect.provideContext(
      Effect.andThen(announce(settings), untilDrained(settings["drain-seconds"], endProcess)),
      services,
    )
  }).pipe(Effect.scoped, Effect.provide(Logging.layer(settings["log-format"])))
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
