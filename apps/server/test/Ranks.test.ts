/** The server over the native CPU executor with two tensor-parallel ranks: what it answers, shows, and says when they differ. */
import { Executor, ExecutorError } from "@uniprefill/executor/contract/Executor"
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
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { closeScope } from "./FakeEngine.ts"

const settingsOf = (ranks: number) =>
  ({
    ...Object.fromEntries(Object.entries(modelOptions).map(([name, { defaultValue }]) => [name, defaultValue])),
    executor: "cpu",
    "max-model-len": 4096,
    "kv-memory": 128 * 1024 * 1024,
    "tensor-parallel-size": ranks,
    threads: 2,
  }) as ModelSettings

const differ = "rank 1 of 2 holds other rows kept at layer 7 than rank 0"
let failing = 0

/** Ranks as they are, but for so many steps that fail as if they had found that they differ. */
const sometimesDiffering: EngineLive.ExecutorOf = (model, settings) =>
  Layer.effect(
    Executor,
    Effect.map(Executor, (executor) => {
      const failed: Array<number> = []
      return Executor.of({
        ...executor,
        // A plan of which the executor can make nothing, so that it, too, has forgotten its slots.
        enqueue: (plan) => {
          if (failing > 0) {
            failing--
            failed.push(plan.stepId)
            plan.closes.push(executor.info.slots)
          }
          return executor.enqueue(plan)
        },
        nextResult: Effect.mapError(
          executor.nextResult,
          () => new ExecutorError({ reason: "Internal", operation: `step ${failed.shift()}`, detail: differ }),
        ),
      })
    }),
  ).pipe(Layer.provide(executorLive(model, settings)))

const scope = Scope.makeUnsafe()
const start = async (ranks: number, executorOf: EngineLive.ExecutorOf): Promise<string> => {
  const limits = serverLimits
  const layers = HttpApp.layer({ apiKeys: [], limits, stallSeconds: 60 }).pipe(
    Layer.provide([Shadow.none, Dropping.layer]),
    Layer.provideMerge(EngineLive.layer(settingsOf(ranks), [`on-${ranks}`], executorOf)),
    Layer.provideMerge(HttpListener.layer({ host: "127.0.0.1", port: 0, limits, closeGraceMs: 100 })),
    Layer.provide(Logger.layer([])),
  )
  const context = await Effect.runPromise(Layer.buildWithScope(layers, scope))
  return HttpServer.formatAddress(Context.get(context, HttpServer.HttpServer).address)
}

let one: string
let two: string
beforeAll(async () => {
  one = await start(1, executorLive)
  two = await start(2, sometimesDiffering)
})
afterAll(() => closeScope(scope))

/** Long enough to drop. */
const prompt = Array.from({ length: 1100 }, (_, i) => 300 + ((i * 37) % 900))
const ask = (url: string, over: object = {}) =>
  fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt, max_tokens: 8, temperature: 1, seed: 3, ignore_eos: true, logprobs: 2, ...over }),
  })

const choicesOf = async (response: Response) => {
  expect(response.status).toBe(200)
  const { choices } = (await response.json()) as { readonly choices: ReadonlyArray<object> }
  return choices
}

const readiness = async () => {
  const response = await fetch(`${two}/ready`)
  return { status: response.status, text: await response.text() }
}

describe("two ranks", () => {
  it("answer as one does, log-probabilities and all", async () => {
    expect(await choicesOf(await ask(two))).toEqual(await choicesOf(await ask(one)))
    const dense = { uniprefill: { enabled: false } }
    expect(await choicesOf(await ask(two, dense))).toEqual(await choicesOf(await ask(one, dense)))
  })

  it("are in the metrics one by one", async () => {
    // Both servers of this process count in one registry.
    const text = await (await fetch(`${two}/metrics`)).text()
    const ranksOf = (name: string) =>
      text
        .split("\n")
        .filter((line) => line.startsWith("uniprefill:rank_info{") && line.includes(`model_name="${name}"`))
        .map((line) => /rank="\d+",device="\w+"/.exec(line)?.[0])
    expect(ranksOf("on-1")).toEqual(['rank="0",device="cpu"'])
    expect(new Set(ranksOf("on-2"))).toEqual(new Set(['rank="0",device="cpu"', 'rank="1",device="cpu"']))
  })
})

describe("ranks that differ", () => {
  it("fail every client of the step, naming rank and step; those that come next are served", async () => {
    const sound = await choicesOf(await ask(two))
    const streams = await Promise.all(
      [11, 12].map((seed) => ask(two, { prompt: "The quiet river", max_tokens: 2000, seed, stream: true })),
    )
    // They are under way before anything differs.
    const readers = streams.map((response) => response.body!.pipeThrough(new TextDecoderStream()).getReader())
    const begun = await Promise.all(
      readers.map(async (reader) => {
        let text = ""
        while (!text.includes("data: ")) text += (await reader.read()).value ?? ""
        return text
      }),
    )
    failing = 1
    const ended = await Promise.all(
      readers.map(async (reader, i) => {
        let text = begun[i]!
        for (let part = await reader.read(); !part.done; part = await reader.read()) text += part.value
        return text
      }),
    )
    for (const text of ended) {
      const error = /data: (\{"error".*\})/.exec(text)?.[1]
      expect(JSON.parse(error!)).toMatchObject({ error: { code: 500 } })
      expect(error).toMatch(new RegExp(`step \\d+: ${differ}`))
      expect(text).not.toContain('"finish_reason":"length"')
    }
    expect((await readiness()).status).toBe(200)
    expect(await choicesOf(await ask(two))).toEqual(sound)
  })

  it("three times in a row make the server unready, with what differed, until a step succeeds", async () => {
    const statuses: Array<number> = []
    for (let i = 0; i < 3; i++) {
      failing = 1
      const response = await ask(two, { prompt: `a prompt of its own ${i}` })
      expect(response.status).toBe(500)
      expect(await response.text()).toContain(differ)
      statuses.push((await readiness()).status)
    }
    expect(statuses).toEqual([200, 200, 503])
    expect((await readiness()).text).toContain(differ)
    expect((await fetch(`${two}/health`)).status).toBe(200)
    await choicesOf(await ask(two))
    expect((await readiness()).status).toBe(200)
  })
})

it("a model that the ranks cannot share is refused by the option's name, before any executor is tried", async () => {
  const layer = EngineLive.layer(settingsOf(3), [], executorLive).pipe(Layer.provide(Logger.layer([])))
  await expect(Effect.runPromise(Effect.scoped(Layer.build(layer)))).rejects.toThrow(
    "--tensor-parallel-size: heads 4 cannot be split into 3 equal parts",
  )
})
