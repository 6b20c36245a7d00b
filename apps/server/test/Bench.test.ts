import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, Option, Result } from "effect"
import type { BenchOutcome } from "uniprefill/bench/BenchClient"
import { makeRequests, sendTimes } from "uniprefill/bench/BenchDataset"
import { benchOptions, type BenchSettings } from "uniprefill/bench/BenchOptions"
import { drawReport, figuresOf, percentile } from "uniprefill/bench/BenchReport"
import { benchServe } from "uniprefill/bench/BenchServe"
import { type GivenFlags, resolveOptions } from "uniprefill/options/Options"
import { afterAll, afterEach, describe, expect, it, test, vi } from "vitest"
import { startServer, type TestServer } from "./TestServer.ts"

const folder = mkdtempSync(join(tmpdir(), "uniprefill-bench-"))
afterAll(() => rmSync(folder, { recursive: true }))

const settingsOf = (flags: Record<string, string>): Promise<BenchSettings> => {
  const names = [...Object.keys(benchOptions), "config"]
  const given = Object.fromEntries(names.map((name) => [name, Option.fromUndefinedOr(flags[name])]))
  return Effect.runPromise(resolveOptions(benchOptions, given as GivenFlags<typeof benchOptions>, {}, names))
}

const requestsOf = async (flags: Record<string, string>) => Effect.runPromise(makeRequests(await settingsOf(flags)))

const write = (name: string, text: string) => {
  const file = join(folder, name)
  writeFileSync(file, text)
  return file
}

describe("datasets", () => {
  it("random: lengths around what is asked for, the same beginning for all, the same again with the same seed", async () => {
    const flags = {
      "num-prompts": "200",
      "random-input-len": "100",
      "random-output-len": "10",
      "random-range-ratio": "0.5",
      "random-prefix-len": "7",
    }
    const requests = await requestsOf(flags)
    const lengths = requests.map(({ prompt }) => prompt.length - 7)
    expect([Math.min(...lengths) >= 50, Math.max(...lengths) <= 150]).toEqual([true, true])
    expect(new Set(lengths).size).toBeGreaterThan(50)
    expect(new Set(requests.map(({ prompt }) => prompt.slice(0, 7).toString())).size).toBe(1)
    expect(new Set(requests.map(({ prompt }) => prompt.toString())).size).toBe(200)
    expect(await requestsOf(flags)).toEqual(requests)
    expect(await requestsOf({ ...flags, seed: "1" })).not.toEqual(requests)
    const [chat] = await requestsOf({ backend: "openai-chat", "random-input-len": "50", "num-prompts": "1" })
    expect((chat!.prompt as string).split(" ")).toHaveLength(50)
  })

  it("sharegpt: first turns, with answers about as long as the conversation's", async () => {
    const turns = (...values: Array<string>) => ({
      conversations: values.map((value, i) => ({ from: i % 2 ? "gpt" : "human", value })),
    })
    const file = write(
      "share.json",
      JSON.stringify([turns("hello there", "x".repeat(40)), turns("alone"), turns("hi", "yes", "ok")]),
    )
    const flags = { "dataset-name": "sharegpt", "dataset-path": file, "num-prompts": "50" }
    const requests = await requestsOf(flags)
    expect(new Set(requests.map(({ prompt, outputTokens }) => `${String(prompt)} ${outputTokens}`))).toEqual(
      new Set(["hello there 10", "hi 1"]),
    )
    expect((await requestsOf({ ...flags, "sharegpt-output-len": "5" }))[0]!.outputTokens).toBe(5)
  })

  it("timed-trace: its own times, and equal tokens where blocks are equal", async () => {
    const line = (timestamp: number, hash_ids: Array<number>) =>
      JSON.stringify({ timestamp, input_length: 1000, output_length: 3, hash_ids })
    const file = write("trace.jsonl", `${line(5000, [1, 2])}\n${line(7000, [1, 9])}\n`)
    const [first, second] = await requestsOf({
      "dataset-name": "timed-trace",
      "dataset-path": file,
      "trace-time-scale": "0.5",
    })
    expect([first!.dueSeconds, second!.dueSeconds]).toEqual([0, 1])
    expect(first!.prompt).toHaveLength(1000)
    expect(first!.prompt.slice(0, 512)).toEqual(second!.prompt.slice(0, 512))
    expect(first!.prompt.slice(512)).not.toEqual(second!.prompt.slice(512))
  })

  test.each([
    [{ "dataset-name": "sharegpt" }, "--dataset-name sharegpt needs --dataset-path"],
    [{ "dataset-name": "timed-trace", "dataset-path": "/no/such" }, "--dataset-path /no/such: ENOENT"],
  ])("%j is refused", async (flags, says) => {
    const settings = await settingsOf(flags)
    const result = await Effect.runPromise(Effect.result(makeRequests(settings)))
    expect(Result.isFailure(result) && result.failure.message).toContain(says)
  })

  it("names the line of a trace that is wrong", async () => {
    const file = write("wrong.jsonl", '{"timestamp":1,"input_length":5,"output_length":1}\n{"timestamp":2}\n')
    const settings = await settingsOf({ "dataset-name": "timed-trace", "dataset-path": file })
    const result = await Effect.runPromise(Effect.result(makeRequests(settings)))
    expect(Result.isFailure(result) && result.failure.message).toContain("wrong.jsonl: line 2: ")
  })
})

describe("times of sending", () => {
  const requests = Array.from({ length: 20_000 }, () => ({
    prompt: "x",
    promptTokens: 1,
    outputTokens: 1,
    dueSeconds: undefined,
  }))
  const gapsOf = (burstiness: number) => {
    const times = sendTimes(requests, { "request-rate": 10, burstiness, seed: 3 })
    return times.slice(1).map((at, i) => at - times[i]!)
  }
  const spread = (gaps: ReadonlyArray<number>) => {
    const mean = gaps.reduce((a, b) => a + b, 0) / gaps.length
    return { mean, variation: Math.sqrt(gaps.reduce((a, b) => a + (b - mean) ** 2, 0) / gaps.length) / mean }
  }

  it("come at the rate asked for, as bursty as asked for", () => {
    for (const burstiness of [0.5, 1, 4]) {
      const { mean, variation } = spread(gapsOf(burstiness))
      expect(mean).toBeCloseTo(0.1, 2)
      expect(variation).toBeCloseTo(1 / Math.sqrt(burstiness), 1)
    }
    expect(sendTimes(requests.slice(0, 3), { "request-rate": Infinity, burstiness: 1, seed: 0 })).toEqual([0, 0, 0])
  })
})

describe("figures", () => {
  const outcome = (fields: Partial<BenchOutcome>): BenchOutcome => ({
    success: true,
    error: "",
    promptTokens: 10,
    outputTokens: 3,
    text: "",
    ttft: 0.1,
    itl: [0.02, 0.04],
    latency: 0.16,
    startedMs: 0,
    ...fields,
  })
  const options = {
    metrics: ["ttft", "tpot", "itl", "e2el"],
    percentiles: [50, 99],
    goodput: new Map([["ttft", 150]]),
  } as const

  it("are what vLLM's are: of requests that succeeded, interpolated percentiles, none of single tokens per token", () => {
    const outcomes = [
      outcome({}),
      outcome({ ttft: 0.2, latency: 0.2, itl: [], outputTokens: 1 }),
      outcome({ success: false, error: "x", outputTokens: 0 }),
    ]
    const figures = figuresOf({ outcomes, durationSeconds: 2, peakConcurrency: 3 }, options as never)
    expect(figures).toMatchObject({
      completed: 2,
      failed: 1,
      total_input_tokens: 20,
      total_output_tokens: 4,
      request_throughput: 1,
      request_goodput: 0.5,
      output_throughput: 2,
      total_token_throughput: 12,
      max_output_tokens_per_s: 4,
      max_concurrent_requests: 3,
    })
    expect(figures.mean_ttft_ms).toBeCloseTo(150, 9)
    expect(figures.p99_ttft_ms).toBeCloseTo(199, 9)
    expect(figures.mean_tpot_ms).toBeCloseTo(30, 9)
    expect(figures.median_itl_ms).toBeCloseTo(30, 9)
    const text = drawReport(figures, options as never, { rate: 10, maxConcurrency: 4 })
    for (const line of [
      "Successful requests: 2",
      "Request rate configured (RPS): 10.00",
      "Mean TTFT (ms): 150.00",
      "P99 TPOT (ms): 30.00",
    ]) {
      expect(text.replaceAll(/ +/g, " ")).toContain(line)
    }
  })

  it("percentiles are interpolated", () => {
    expect([percentile([1, 2, 3, 4], 50), percentile([1, 2], 99), percentile([], 50)]).toEqual([2.5, 1.99, 0])
  })
})

describe("against a server", () => {
  let server: TestServer | undefined
  afterEach(async () => {
    await server?.close()
    vi.restoreAllMocks()
  })

  const run = async (flags: Record<string, string>) => {
    let printed = ""
    vi.spyOn(process.stdout, "write").mockImplementation((text) => {
      printed += String(text)
      return true
    })
    const file = join(folder, "result.json")
    const base = {
      "base-url": server!.url,
      "num-prompts": "12",
      "random-input-len": "20",
      "random-output-len": "5",
      "save-result": file,
      "save-detailed": "on",
    }
    const result = await Effect.runPromise(Effect.result(benchServe(await settingsOf({ ...base, ...flags }))))
    return { result, printed, file: Result.isSuccess(result) ? JSON.parse(readFileSync(file, "utf8")) : undefined }
  }

  it("measures completions and chats, no more than asked at a time", async () => {
    server = await startServer()
    server.engine.delayMs = 2
    for (const backend of ["openai", "openai-chat"]) {
      const before = server.engine.requests.length
      const { printed, file } = await run({ backend, "max-concurrency": "3", "num-warmups": "1" })
      expect(printed).toContain("Serving Benchmark Result")
      expect(file).toMatchObject({
        backend,
        model_id: "needle",
        completed: 12,
        failed: 0,
        total_output_tokens: 60,
        max_concurrent_requests: 3,
      })
      expect(file.itls.every((gaps: Array<number>) => gaps.length === 4)).toBe(true)
      expect(file.mean_ttft_ms).toBeGreaterThan(1)
      // One to see whether the server answers, one to warm it up.
      expect(server.engine.requests.length - before).toBe(14)
    }
  })

  it("counts what failed, and fails itself where nothing succeeded", async () => {
    server = await startServer({ failures: { rate: 0.5, types: ["server_error"], seed: 1 } })
    const some = await run({ "ready-check-timeout-sec": "0" })
    expect(some.file.failed).toBeGreaterThan(0)
    expect(some.file.completed + some.file.failed).toBe(12)
    expect(some.file.errors.filter((error: string) => error.startsWith("500: "))).toHaveLength(some.file.failed)
    await server.close()
    server = await startServer({ failures: { rate: 1, types: ["rate_limit"], seed: 1 } })
    const none = await run({})
    expect(Result.isFailure(none.result) && none.result.failure.message).toContain("does not answer: 429")
  })
})
