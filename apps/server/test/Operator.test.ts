import { Engine } from "@uniprefill/engine/Engine"
import { Context, Effect, Layer, Metric, Scope, Stream } from "effect"
import { HttpServer } from "effect/http"
import { PrometheusMetrics } from "effect/observability"
import * as AdminServer from "uniprefill/admin/AdminServer"
import { Dropping } from "uniprefill/answers/Dropping"
import { Shadow } from "uniprefill/answers/Shadow"
import { klOf } from "uniprefill/quality/Divergence"
import { failureTypes } from "uniprefill/http/FailureInjection"
import * as HttpListener from "uniprefill/http/HttpListener"
import { ServedModel } from "uniprefill/model/ServedModel"
import { serverLimits } from "uniprefill/http/ServerLimits"
import { afterEach, describe, expect, it } from "vitest"
import { closeScope, FakeEngine } from "./FakeEngine.ts"
import { eventually, rawExchange, startServer, type TestServer } from "./TestServer.ts"

const servers: Array<TestServer> = []
const start = async (...args: Parameters<typeof startServer>) => {
  const server = await startServer(...args)
  servers.push(server)
  return server
}
afterEach(async () => {
  for (const server of servers.splice(0)) await server.close()
})

describe("the floor of p", () => {
  it("lets a request lower every drop layer's p so far, and no further", async () => {
    const server = await start({ pFloor: 0.7 })
    const ask = (p: number) => server.post("/v1/completions", { prompt: "x", uniprefill: { p } })
    for (const p of [0.7, 0.8, 0.92]) expect((await ask(p)).status).toBe(200)
    expect(server.engine.requests.map(({ p, minP }) => [p, minP])).toEqual([
      [[0.7, 0.7], undefined],
      [[0.8, 0.8], undefined],
      // Between the two layers' own: raises the lower one.
      [undefined, 0.92],
    ])
    const refused = await ask(0.69)
    expect(refused.status).toBe(400)
    expect(JSON.stringify(await refused.json())).toContain(
      "uniprefill.p may be lowered to 0.7 on this server, got 0.69",
    )
  })
})

describe("p under a target for the first token", () => {
  it("is asked of the engine for whoever names no target, and an answer that was lowered says so", async () => {
    const server = await start({ sloP: 0.7, ttftSloMs: 800 })
    const { engine } = server
    const ask = async (path: string, body: object) => {
      const answer = await server.post(path, { max_tokens: 1, ...body })
      expect(answer.status).toBe(200)
      return answer.text()
    }
    expect(await ask("/v1/completions", { prompt: "x" })).not.toContain("lowered_p")
    await ask("/v1/completions", { prompt: "x", ttft_slo_ms: 90 })
    expect(engine.requests.map((one) => one.firstTokenWithinMicros)).toEqual([800_000, 90_000])
    engine.lowered = true
    const messages = [{ role: "user", content: "x" }]
    for (const stream of [false, true]) {
      for (const [path, body] of [
        ["/v1/completions", { prompt: "x" }],
        ["/v1/chat/completions", { messages }],
        ["/v1/messages", { messages }],
        ["/v1/responses", { input: "x" }],
      ] as const) {
        expect(await ask(path, { ...body, stream })).toContain('"uniprefill":{"lowered_p":0.7}')
      }
    }
    const reported = await ask("/v1/completions", { prompt: "x", uniprefill: { report: true } })
    expect(reported).toContain('"uniprefill":{"kept":[1,0.5,0.25],"lowered_p":0.7}')
  })
})

describe("the switch for token dropping", () => {
  it("serves what comes from now on dense", async () => {
    const server = await start()
    await server.post("/v1/completions", { prompt: "x" })
    server.dropping.enabled = false
    await server.post("/v1/completions", { prompt: "x" })
    await server.post("/v1/chat/completions", { messages: [{ role: "user", content: "x" }] })
    expect(server.engine.requests.map(({ drop }) => drop)).toEqual([true, false, false])
  })

  it("is an operator's on this machine, and no web page's", async () => {
    const scope = Scope.makeUnsafe()
    const engine = new FakeEngine()
    const dropping = { enabled: true }
    const listener = HttpListener.layer({ host: "127.0.0.1", port: 0, limits: serverLimits, closeGraceMs: 10 })
    const routes = AdminServer.routes.pipe(
      Layer.provide([engine.layer, Layer.succeed(Dropping, dropping)]),
      Layer.provideMerge(listener),
    )
    const context = await Effect.runPromise(Layer.buildWithScope(routes, scope))
    const { address } = Context.get(context, HttpServer.HttpServer)
    const url = HttpServer.formatAddress(address)
    const post = (body: string, headers: Record<string, string> = {}) =>
      fetch(`${url}/dropping`, { method: "POST", body, headers: { "content-type": "application/json", ...headers } })

    expect(await (await fetch(`${url}/state`)).json()).toMatchObject({ dropping: true, running: 0, healthy: true })
    expect(await (await post('{"enabled":false}')).json()).toMatchObject({ dropping: false })
    expect(dropping.enabled).toBe(false)
    expect((await post("{}")).status).toBe(400)
    expect((await post('{"enabled":true}', { origin: "http://127.0.0.1:9" })).status).toBe(403)
    expect((await post('{"enabled":true}', { "content-type": "text/plain" })).status).toBe(415)
    const { port } = address as { readonly port: number }
    const rebound = await rawExchange(port, "GET /state HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n")
    expect(rebound).toMatch(/^HTTP\/1.1 403 /)
    expect((await fetch(`${url}/other`)).status).toBe(404)
    expect(dropping.enabled).toBe(false)
    await closeScope(scope)
  })
})

describe("failures of a fake", () => {
  it("come as often as asked, of the types asked, the same again with the same seed", async () => {
    const statuses = async (seed: number) => {
      const server = await start({ failures: { rate: 0.5, types: ["rate_limit", "server_error"], seed } })
      const seen: Array<number> = []
      for (let i = 0; i < 60; i++) seen.push((await server.post("/v1/completions", { prompt: "x" })).status)
      expect((await fetch(`${server.url}/health`)).status).toBe(200)
      return seen
    }
    const [first, again, other] = [await statuses(1), await statuses(1), await statuses(2)]
    expect(again).toEqual(first)
    expect(other).not.toEqual(first)
    expect(new Set(first)).toEqual(new Set([200, 429, 500]))
    expect(first.filter((status) => status !== 200).length).toBeGreaterThan(15)
    expect(first.filter((status) => status === 200).length).toBeGreaterThan(15)
  })

  it("have every type that is named", async () => {
    const seen = new Set<number>()
    for (const type of failureTypes) {
      const server = await start({ failures: { rate: 1, types: [type], seed: 0 } })
      const response = await server.post("/v1/completions", { prompt: "x" })
      expect(((await response.json()) as any).error.message).toMatch(/^simulated: /)
      seen.add(response.status)
    }
    expect(seen).toEqual(new Set([429, 401, 400, 500, 404, 503]))
  })
})

describe("shadows", () => {
  const run = async (ratio: number, answers: number, change: (engine: FakeEngine) => void = () => {}) => {
    const engine = new FakeEngine()
    const registry = new Map()
    const served = Layer.succeed(ServedModel, { names: ["needle"] } as never)
    const program = Effect.gen(function* () {
      const shadow = yield* Shadow
      const service = yield* Engine
      for (let i = 0; i < answers; i++) {
        const request = {
          requestId: `r${i}`,
          prompt: Int32Array.of(5),
          maxTokens: 3,
          sampling: { seed: 1n, logprobs: -1 },
          stop: [],
          drop: true,
          priority: 0,
        } as never
        const shown = shadow.watch(request, 0)
        yield* Effect.scoped(
          Effect.flatMap(service.generate(request), ([events]) =>
            Stream.runForEach(events, (event) => Effect.sync(() => shown?.(event))),
          ),
        )
        change(engine)
        // Whoever watches does what there is to do: nothing here takes time.
        for (let turn = 0; turn < 32; turn++) yield* Effect.yieldNow
      }
      return yield* PrometheusMetrics.format()
    })
    const layers = Shadow.layer(ratio).pipe(Layer.provideMerge(Layer.mergeAll(engine.layer, served)))
    const text = await Effect.runPromise(
      program.pipe(Effect.provide(layers), Effect.provideService(Metric.MetricRegistry, registry), Effect.scoped),
    )
    const value = (name: string) => Number(new RegExp(`^uniprefill:${name}\\{[^}]*\\} (.*)$`, "m").exec(text)?.[1])
    return { engine, value }
  }

  it("make the share of answers again, dense, at the lowest priority, and compare", async () => {
    const { engine, value } = await run(0.5, 6)
    const again = engine.requests.filter(({ requestId }) => requestId.startsWith("shadow-"))
    expect(again.map(({ drop }) => drop)).toEqual([false, true, false, true, false, true])
    expect(again.every(({ priority }) => priority === 0x7fff_ffff)).toBe(true)
    expect([value("shadow_requests_total"), value("shadow_same_answers_total")]).toEqual([3, 3])
    expect(value("shadow_first_token_kl_sum")).toBe(0)
  })

  it("see an answer that differs, and leave out what waits too long behind others", async () => {
    const different = await run(1, 1, (engine) => (engine.texts = ["a", "b", "c", "d", "e"]))
    expect([different.value("shadow_requests_total"), different.value("shadow_same_answers_total")]).toEqual([1, 0])
    const busy = await run(1, 8, (engine) => (engine.waiting = 1))
    expect(busy.value("shadow_requests_total")).toBe(0)
    expect(busy.value("shadow_skipped_total")).toBe(4)
  })

  it("divergence is 0 for equal distributions and grows with their difference", () => {
    const of = (...probabilities: ReadonlyArray<number>) => probabilities.map((p, i) => [i, Math.log(p)] as const)
    expect(klOf(of(0.5, 0.3), of(0.5, 0.3))).toBe(0)
    const near = klOf(of(0.5, 0.3, 0.2), of(0.45, 0.35, 0.2))
    expect(near).toBeGreaterThan(0)
    expect(klOf(of(0.9, 0.05), of(0.05, 0.9))).toBeGreaterThan(near)
    expect(klOf(of(0.5, 0.3, 0.2), of(0.45, 0.35, 0.2))).toBeCloseTo(
      0.5 * Math.log(0.5 / 0.45) + 0.3 * Math.log(0.3 / 0.35),
      9,
    )
  })
})

it("requests are counted by path, method and status, those of clients that left too", async () => {
  const server = await start()
  server.engine.delayMs = 3_600_000
  const controller = new AbortController()
  const left = server.client.completions.create({ model: "needle", prompt: "x" }, { signal: controller.signal })
  await eventually(() => server.engine.running.size === 1)
  controller.abort()
  await expect(left).rejects.toThrow("aborted")
  await fetch(`${server.url}/made/up/${Math.random()}`)
  const count = async (labels: string) => {
    const text = await (await fetch(`${server.url}/metrics`)).text()
    return Number(new RegExp(`^http_requests_total\\{${labels}\\} (.*)$`, "m").exec(text)?.[1] ?? 0)
  }
  let counted = 0
  await eventually(() => {
    void count('handler="/v1/completions",method="POST",status="4xx"').then((value) => (counted = value))
    return counted > 0
  })
  expect(await count('handler="other",method="GET",status="4xx"')).toBeGreaterThan(0)
})
