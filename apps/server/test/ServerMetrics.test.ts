import { readFileSync } from "node:fs"
import { Context, Effect, Layer, Logger, Scope } from "effect"
import { HttpServer } from "effect/http"
import * as EngineLive from "uniprefill/model/EngineLive"
import { executorLive } from "uniprefill/model/ExecutorLive"
import { Dropping } from "uniprefill/answers/Dropping"
import { Shadow } from "uniprefill/answers/Shadow"
import * as HttpApp from "uniprefill/http/HttpApp"
import * as HttpListener from "uniprefill/http/HttpListener"
import { modelOptions, type ModelSettings } from "uniprefill/options/ModelOptions"
import { serverLimits } from "uniprefill/http/ServerLimits"
import { afterAll, beforeAll, expect, it } from "vitest"
import { closeScope } from "./FakeEngine.ts"

/** The server over the simulated executor, with the embedded model's own drop schedule. */
const settings = {
  ...Object.fromEntries(Object.entries(modelOptions).map(([name, { defaultValue }]) => [name, defaultValue])),
  executor: "sim",
  "time-scale": 0,
} as ModelSettings

/** A request with a key has a tenant. */
const authorization = { authorization: "Bearer a key" }

const scope = Scope.makeUnsafe()
let metrics: string

/** What is measured only when it happens has happened: a prompt that drops, and a second output token. */
beforeAll(async () => {
  const limits = serverLimits
  const layers = HttpApp.layer({ apiKeys: ["a key"], limits, stallSeconds: 60 }).pipe(
    Layer.provide([Shadow.layer(1), Dropping.layer]),
    Layer.provideMerge(EngineLive.layer(settings, [], executorLive)),
    Layer.provideMerge(HttpListener.layer({ host: "127.0.0.1", port: 0, limits, closeGraceMs: 100 })),
    Layer.provide(Logger.layer([])),
  )
  const context = await Effect.runPromise(Layer.buildWithScope(layers, scope))
  const url = HttpServer.formatAddress(Context.get(context, HttpServer.HttpServer).address)
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { ...authorization, "content-type": "application/json" },
    body: JSON.stringify({ prompt: Array(4000).fill(300), max_tokens: 2, ignore_eos: true }),
  })
  expect(response.status).toBe(200)
  // The shadow runs once the answer is given.
  do metrics = await (await fetch(`${url}/metrics`, { headers: authorization })).text()
  while (!metrics.includes("uniprefill:shadow_first_token_kl_count"))
})
afterAll(() => closeScope(scope))

const page = readFileSync(new URL("../../../docs/server-metrics.md", import.meta.url), "utf8")
/** Rows of its table that say something: `name type`. */
const documented = [...page.matchAll(/^\| `(\S+)` +\| (\w+) +\| .*\S +\|$/gm)].map(
  ([, name, type]) => `${name} ${type}`,
)

it("the page of server metrics has every exported metric with its type, and no other", () => {
  const exported = [...metrics.matchAll(/^# TYPE (\S+) (\w+)$/gm)].map(([, name, type]) => `${name} ${type}`)
  expect(documented.toSorted()).toEqual(exported.toSorted())
})

it("the page names every label", () => {
  const labels = new Set([...metrics.matchAll(/[{,](\w+)="/g)].map(([, label]) => label!))
  // A bucket's bound is the format's own.
  labels.delete("le")
  expect(labels).toEqual(
    new Set([
      "model_name",
      "engine",
      "block_size",
      "num_gpu_blocks",
      "rank",
      "device",
      "finished_reason",
      "segment",
      "reason",
      "source",
      "handler",
      "method",
      "status",
      "tenant",
    ]),
  )
  for (const label of labels) expect(page).toContain(`\`${label}\``)
})
