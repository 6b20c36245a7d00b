import { mkdtemp, rm, writeFile } from "node:fs/promises"
import { once } from "node:events"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { readRecording } from "@uniprefill/recording/RecordingFile"
import { replay } from "@uniprefill/recording/Replay"
import { Effect } from "effect"
import OpenAI from "openai"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { ServeProcess } from "./ServeProcess.ts"

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "uniprefill-sim-"))
})
afterAll(() => rm(folder, { recursive: true }))

const clientOf = ({ url }: ServeProcess) => new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 })
const model = "needle-10m-deep"

describe("`uniprefill serve --executor sim`", () => {
  it("answers without a model, shares prefixes, and its recording replays", async () => {
    const file = join(folder, "run.recording.jsonl.gz")
    const policy = join(folder, "backwards.ts")
    await writeFile(
      policy,
      'export default { name: "backwards", order: (queue) => queue.map(({ id }) => id).reverse() }',
    )
    const settings = ["--executor", "sim", "--time-scale", "0", "--record", file, "--policy", policy]
    await using server = await ServeProcess.start(...settings, "--log-format", "json")
    const client = clientOf(server)
    const prompt = "The quick brown fox jumps over the lazy dog. ".repeat(100)
    const ask = { model, prompt, max_tokens: 40, temperature: 0 }
    const first = await client.completions.create(ask)
    expect(prompt.startsWith(first.choices[0]!.text)).toBe(true)
    expect(first.choices[0]!.text.length).toBeGreaterThan(40)
    expect(first.usage!.prompt_tokens_details!.cached_tokens).toBe(0)
    const again = await client.completions.create(ask)
    expect(again.choices[0]!.text).toBe(first.choices[0]!.text)
    expect(again.usage!.prompt_tokens_details!.cached_tokens).toBeGreaterThan(1000)

    const many = Array.from({ length: 20 }, (_, i) =>
      client.completions.create({ ...ask, prompt: `${i} ${prompt.slice(0, 200 * i)}`, max_tokens: 5 + i }),
    )
    for (const [i, answer] of (await Promise.all(many)).entries()) expect(answer.usage!.completion_tokens).toBe(5 + i)

    server.signal("SIGTERM")
    expect(await server.ended).toBe(0)
    const { header, events } = await Effect.runPromise(readRecording(file))
    expect(header.policy.name).toBe("backwards")
    const order = (queue: Array<{ readonly id: number }>) => queue.map(({ id }) => id).reverse()
    const report = replay(header, events, { name: "backwards", order })
    expect(report.difference).toBeNull()
    expect(report.plans).toBeGreaterThan(60)
    expect(report.prefixHits).toBeGreaterThan(1000)
  })

  it("takes its time, and fails as often as it is told to", async () => {
    const table = {
      format: "uniprefill-calibration",
      version: 3,
      device: "slow",
      source: "assumed",
      note: "",
      gemm: [{ at: 1, teraFlops: 1000 }],
      attention: [{ at: 1, teraFlops: 1000 }],
      copyTeraBytes: 1000,
      stepMicros: 100_000_000,
      itemMicros: 0,
    }
    const costs = join(folder, "slow.json")
    await writeFile(costs, JSON.stringify(table))
    const timed = async (...options: ReadonlyArray<string>) => {
      await using server = await ServeProcess.start("--executor", "sim", "--cost-model", costs, ...options)
      const start = performance.now()
      const answer = clientOf(server).completions.create({ model, prompt: "hello", max_tokens: 10 })
      return await answer.then(
        () => performance.now() - start,
        (error: unknown) => error,
      )
    }
    // Ten steps of 100 s, five thousand times as fast.
    const millis = await timed("--time-scale", "0.0002")
    expect(millis).toBeGreaterThan(190)
    expect(millis).toBeLessThan(500_000)
    const error = await timed("--time-scale", "0", "--sim-failure-rate", "1")
    expect(error).toMatchObject({ status: 500, message: expect.stringContaining("simulated failure") })
  })

  it("sends traces, logs and metrics to a collector, in the trace of whoever asked, and no text", async () => {
    const got = new Map<string, string>()
    const collector = createServer((request, response) => {
      let body = ""
      request.on("data", (chunk) => (body += chunk))
      request.on("end", () => {
        got.set(request.url!, (got.get(request.url!) ?? "") + body)
        response.end("{}")
      })
    }).listen(0, "127.0.0.1")
    await once(collector, "listening")
    const endpoint = `http://127.0.0.1:${(collector.address() as AddressInfo).port}`
    await using server = await ServeProcess.start("--executor", "sim", "--time-scale", "0", "--otlp-endpoint", endpoint)
    const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    const asked = { model, prompt: "a secret of mine", max_tokens: 3 }
    await clientOf(server).completions.create(asked, { headers: { traceparent: `00-${trace}-00f067aa0ba902b7-01` } })
    // What has not been sent yet is sent at the end.
    server.signal("SIGTERM")
    expect(await server.ended).toBe(0)
    collector.close()
    expect([...got.keys()].sort()).toEqual(["/v1/logs", "/v1/metrics", "/v1/traces"])
    expect(got.get("/v1/traces")).toContain(trace)
    expect(got.get("/v1/metrics")).toContain("vllm:generation_tokens_total")
    expect(got.get("/v1/logs")).toContain("completion_tokens")
    expect([...got.values()].join("")).not.toContain("a secret of mine")
  })

  it("is refused with a policy that there is not", async () => {
    const start = (...options: ReadonlyArray<string>) => ServeProcess.start("--executor", "sim", ...options)
    await expect(start("--policy", "lifo")).rejects.toThrow(
      /ended with 2:[^]*--policy: there is no "lifo"; there are fcfs, /,
    )
    await expect(start("--policy", "./nowhere.js")).rejects.toThrow(/ended with 2:[^]*--policy \.\/nowhere\.js: /)
    await expect(start("--policy", "token-budget", "--max-num-batched-tokens", "100")).rejects.toThrow(
      /ended with 2:[^]*maxNumBatchedTokens must be at least maxNumSeqs \+ 64/,
    )
  })
})
