import { mkdtemp, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Engine } from "@uniprefill/engine/Engine"
import { Context, Effect, Layer, Logger, Scope } from "effect"
import { HttpServer } from "effect/http"
import OpenAI from "openai"
import * as EngineLive from "uniprefill/model/EngineLive"
import { executorLive } from "uniprefill/model/ExecutorLive"
import { Dropping } from "uniprefill/answers/Dropping"
import { Shadow } from "uniprefill/answers/Shadow"
import * as HttpApp from "uniprefill/http/HttpApp"
import * as HttpListener from "uniprefill/http/HttpListener"
import { modelOptions, type ModelSettings } from "uniprefill/options/ModelOptions"
import { serverLimits } from "uniprefill/http/ServerLimits"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { closeScope } from "./FakeEngine.ts"
import { eventually, startServer } from "./TestServer.ts"

let folder: string
let costs: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "uniprefill-tenants-"))
  costs = join(folder, "steps-of-5-ms.json")
  const rates = { gemm: [{ at: 1, teraFlops: 1e3 }], attention: [{ at: 1, teraFlops: 1e3 }], copyTeraBytes: 1e3 }
  const head = { format: "uniprefill-calibration", version: 3, device: "slow", source: "assumed", note: "" }
  await writeFile(costs, JSON.stringify({ ...head, ...rates, stepMicros: 5000, itemMicros: 0 }))
})
afterAll(() => rm(folder, { recursive: true }))

const scopes: Array<Scope.Closeable> = []
afterEach(async () => {
  for (const scope of scopes.splice(0)) await closeScope(scope)
})

const apiKeys = ["key of the first", "key of the second"]

/** The real engine and scheduler over the simulated executor, for two clients. */
const start = async (settings: Partial<ModelSettings>) => {
  const defaults = Object.entries(modelOptions).map(([name, { defaultValue }]) => [name, defaultValue])
  const all = { ...Object.fromEntries(defaults), executor: "sim", "time-scale": 0, ...settings } as ModelSettings
  const limits = serverLimits
  const layers = HttpApp.layer({ apiKeys, limits, stallSeconds: 60 }).pipe(
    Layer.provide([Shadow.none, Dropping.layer]),
    Layer.provideMerge(EngineLive.layer(all, ["sim"], executorLive)),
    Layer.provideMerge(HttpListener.layer({ host: "127.0.0.1", port: 0, limits, closeGraceMs: 100 })),
    Layer.provide(Logger.layer([])),
  )
  const scope = Scope.makeUnsafe()
  scopes.push(scope)
  const context = await Effect.runPromise(Layer.buildWithScope(layers, scope))
  const baseURL = `${HttpServer.formatAddress(Context.get(context, HttpServer.HttpServer).address)}/v1`
  const [first, second] = apiKeys.map((apiKey) => new OpenAI({ baseURL, apiKey, maxRetries: 0 }))
  const engine = Context.get(context, Engine)
  /** Resolves once so many requests have a slot and so many wait for one. */
  const reached = async (running: number, waiting: number): Promise<void> => {
    while (true) {
      const status = await Effect.runPromise(engine.status)
      if (status.running >= running && status.waiting >= waiting) return
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
  }
  return { first: first!, second: second!, reached }
}

/** Fields that the client's types do not know are sent as they are. */
const ask = (client: OpenAI, fields: object = {}) =>
  client.completions.create({ model: "sim", prompt: [7, 8, 9], max_tokens: 4, temperature: 0, ...fields })

describe("what a request says of itself reaches the engine", () => {
  it("its key as its tenant, its salt, its priority and its deadline", async () => {
    const server = await startServer({ apiKeys })
    try {
      const send = (key: string, fields: object) =>
        server.post("/v1/completions", { prompt: "x", max_tokens: 1, ...fields }, { authorization: `Bearer ${key}` })
      await send(apiKeys[0]!, { cache_salt: "pepper", priority: -3, ttft_slo_ms: 1500.5 })
      await send(apiKeys[1]!, { cache_salt: null, priority: null, ttft_slo_ms: null })
      expect(server.engine.requests).toMatchObject([
        { tenant: "key-1", cacheSalt: "pepper", priority: -3, firstTokenWithinMicros: 1_500_500 },
        { tenant: "key-2", cacheSalt: undefined, priority: 0, firstTokenWithinMicros: undefined },
      ])
      const lines = () => server.logs.filter(({ fields }) => fields.path === "/v1/completions")
      await eventually(() => lines().length === 2)
      expect(lines().map(({ fields }) => fields.tenant)).toEqual(["key-1", "key-2"])
      expect(JSON.stringify(server.logs)).not.toMatch(/key of the|pepper/)
    } finally {
      await server.close()
    }
  })

  it("one tenant where no key is needed, whatever is sent", async () => {
    const server = await startServer()
    try {
      await server.post("/v1/completions", { prompt: "x", max_tokens: 1 }, { authorization: "Bearer anything" })
      expect(server.engine.requests).toMatchObject([{ tenant: "" }])
    } finally {
      await server.close()
    }
  })

  it("a wrong value is a 400 that names the field", async () => {
    const server = await startServer()
    try {
      for (const [param, value] of Object.entries({ priority: "high", ttft_slo_ms: -1, cache_salt: "" })) {
        const response = await server.post("/v1/completions", { prompt: "x", [param]: value })
        expect(response.status).toBe(400)
        expect(await response.json()).toMatchObject({ error: { type: "BadRequestError", param } })
      }
      expect(server.engine.requests).toEqual([])
    } finally {
      await server.close()
    }
  })
})

describe("cached prefixes", () => {
  it("are shared within a tenant and a salt, and with nobody else", async () => {
    const { first, second } = await start({})
    const prompt = Array.from({ length: 2000 }, (_, i) => 300 + (i % 100))
    const cached = async (client: OpenAI, fields: object = {}) => {
      const { usage } = await ask(client, { prompt, ...fields })
      return usage!.prompt_tokens_details!.cached_tokens
    }
    const whole = 15 * 128
    expect([await cached(first), await cached(first)]).toEqual([0, whole])
    expect([await cached(second), await cached(second)]).toEqual([0, whole])
    const salt = { cache_salt: "pepper" }
    expect([await cached(first, salt), await cached(first, salt)]).toEqual([0, whole])
    expect(await cached(first, { cache_salt: "paprika" })).toBe(0)
    expect(await cached(second, salt)).toBe(0)
    expect(await cached(first)).toBe(whole)
  })
})

describe("order of service", () => {
  const slow = () => ({ "cost-model": costs, "time-scale": 1, "max-num-seqs": 1 })

  /** Has the only slot taken until what it returns is called, so that whatever is asked meanwhile waits. */
  const occupied = async ({ first, reached }: Awaited<ReturnType<typeof start>>) => {
    const leaving = new AbortController()
    const endless = { model: "sim", prompt: [7], max_tokens: 30_000, ...({ ignore_eos: true } as object) }
    const answer = first.completions.create(endless, { signal: leaving.signal })
    await reached(1, 0)
    return async () => {
      leaving.abort()
      await expect(answer).rejects.toThrow("aborted")
    }
  }

  /** Requests that wait together behind another one, by name, in the order in which they are answered. */
  const orderOf = async (policy: string, requests: ReadonlyArray<readonly [name: string, fields: object]>) => {
    const server = await start({ ...slow(), policy })
    const { first, reached } = server
    const vacate = await occupied(server)
    const answered: Array<string> = []
    const answers = []
    for (const [i, [name, fields]] of requests.entries()) {
      answers.push(ask(first, fields).then(() => answered.push(name)))
      await reached(1, i + 1)
    }
    expect(answered).toEqual([])
    await vacate()
    await Promise.all(answers)
    return answered
  }

  it("follows priority, the lower first", async () => {
    const requests = [
      ["none", {}],
      ["late", { priority: 5 }],
      ["urgent", { priority: -5 }],
      ["soon", { priority: -1 }],
    ] as const
    expect(await orderOf("priority", requests)).toEqual(["urgent", "soon", "none", "late"])
    expect(await orderOf("fcfs", requests)).toEqual(["none", "late", "urgent", "soon"])
  })

  it("follows the deadline of the first token", async () => {
    const requests = [
      ["never", {}],
      ["in an hour", { ttft_slo_ms: 3_600_000 }],
      ["at once", { ttft_slo_ms: 1 }],
      ["in ten seconds", { ttft_slo_ms: 10_000 }],
    ] as const
    expect(await orderOf("earliest-deadline", requests)).toEqual(["at once", "in ten seconds", "in an hour", "never"])
  })

  /** Requests of a flood that are answered before the only one of another client, which came last. */
  const passing = async (policy: string) => {
    const server = await start({ ...slow(), policy })
    const { first, second, reached } = server
    const vacate = await occupied(server)
    let answered = 0
    const flood = Array.from({ length: 30 }, () => ask(first).then(() => answered++))
    await reached(1, 30)
    const during = ask(second).then(() => answered)
    await reached(1, 31)
    await vacate()
    await Promise.all(flood)
    return during
  }

  it("is fair between keys: a flood of one holds up another by a few requests, not by all of them", async () => {
    expect(await passing("fair-share")).toBeLessThanOrEqual(4)
    expect(await passing("fcfs")).toBeGreaterThanOrEqual(20)
  })
})
