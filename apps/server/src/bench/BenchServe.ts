import { writeFile } from "node:fs/promises"
import { Effect } from "effect"
import { UsageError } from "../cli/UsageError.ts"
import type { BenchTarget } from "./BenchClient.ts"
import { makeRequests, sendTimes } from "./BenchDataset.ts"
import type { BenchSettings } from "./BenchOptions.ts"
import { type BenchMetric, drawReport, figuresOf, type ReportOptions } from "./BenchReport.ts"
import { runBench } from "./BenchRun.ts"

/** Measures a running server as its clients see it; the report goes to stdout. Fails where no request succeeded. */
export const benchServe = Effect.fnUntraced(function* (settings: BenchSettings) {
  const report = yield* reportOptions(settings)
  const requests = yield* makeRequests(settings)
  const target = yield* targetOf(settings)
  const run = (of: typeof requests, sendAt: ReadonlyArray<number>, concurrency: number, shown: boolean) =>
    Effect.promise((signal) => {
      const show = shown ? progress(of.length) : () => {}
      return runBench(target, of, sendAt, concurrency, show, signal)
    })

  if (settings["ready-check-timeout-sec"] > 0) {
    const first = yield* run(requests.slice(0, 1), [0], 1, false).pipe(
      Effect.timeoutOrElse({
        duration: settings["ready-check-timeout-sec"] * 1000,
        orElse: () => new UsageError({ message: `${target.url.href} did not answer a first request in time` }),
      }),
    )
    const [outcome] = first.outcomes
    if (outcome?.success !== true) {
      return yield* new UsageError({
        message: `${target.url.href} does not answer: ${outcome?.error ?? "interrupted"}`,
      })
    }
  }
  const warmups = Array.from({ length: settings["num-warmups"] }, () => requests[0]!)
  if (warmups.length > 0)
    yield* run(
      warmups,
      warmups.map(() => 0),
      8,
      false,
    )

  const concurrency = settings["max-concurrency"] ?? Number.POSITIVE_INFINITY
  const measured = yield* run(requests, sendTimes(requests, settings), concurrency, process.stderr.isTTY)
  const figures = figuresOf(measured, report)
  process.stdout.write(
    drawReport(figures, report, { rate: settings["request-rate"], maxConcurrency: settings["max-concurrency"] }),
  )
  const errors = new Set(measured.outcomes.filter(({ success }) => !success).map(({ error }) => error.slice(0, 200)))
  for (const error of [...errors].slice(0, 5)) process.stderr.write(`failed: ${error}\n`)

  const file = settings["save-result"]
  if (file !== undefined) {
    const result = resultOf(settings, target, requests.length, figures)
    const detailed = settings["save-detailed"] === "on" ? detailsOf(measured.outcomes) : {}
    yield* Effect.tryPromise({
      try: () => writeFile(file, `${JSON.stringify({ ...result, ...detailed }, null, 2)}\n`),
      catch: (cause) => new UsageError({ message: `--save-result ${file}: ${(cause as Error).message}` }),
    })
  }
  if (figures.completed === 0) return yield* new UsageError({ message: "no request succeeded" })
})

const reportOptions = (settings: BenchSettings): Effect.Effect<ReportOptions, UsageError> =>
  Effect.gen(function* () {
    const goodput = new Map<BenchMetric, number>()
    for (const rule of settings.goodput) {
      const [, metric, ms] = /^(ttft|tpot|itl|e2el):(\d+(?:\.\d+)?)$/.exec(rule) ?? []
      if (metric === undefined) {
        return yield* new UsageError({
          message: `--goodput: expected something like ttft:500, got ${JSON.stringify(rule)}`,
        })
      }
      goodput.set(metric as BenchMetric, Number(ms))
    }
    return { metrics: settings["percentile-metrics"], percentiles: settings["metric-percentiles"], goodput }
  })

const targetOf = Effect.fnUntraced(function* (settings: BenchSettings) {
  const base = settings["base-url"] ?? `http://${settings.host}:${settings.port}`
  const chat = settings.backend === "openai-chat"
  const url = yield* Effect.try({
    try: () => new URL(settings.endpoint ?? (chat ? "/v1/chat/completions" : "/v1/completions"), base),
    catch: () => new UsageError({ message: `--base-url: expected a URL, got ${JSON.stringify(base)}` }),
  })
  const apiKey = settings["api-key"] ?? process.env.OPENAI_API_KEY
  const model = settings.model ?? (yield* firstModel(new URL("/v1/models", base), apiKey))
  const ignoreEos = settings["ignore-eos"] === "on"
  return { url, chat, model, apiKey, ignoreEos, temperature: settings.temperature } satisfies BenchTarget
})

const firstModel = (url: URL, apiKey: string | undefined) =>
  Effect.tryPromise({
    try: async () => {
      const headers = apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }
      const response = await fetch(url, { headers })
      const { data } = (await response.json()) as { readonly data: ReadonlyArray<{ readonly id: string }> }
      return data[0]!.id
    },
    catch: () => new UsageError({ message: `${url.href} lists no model: is the server there? --model names one` }),
  })

const resultOf = (settings: BenchSettings, target: BenchTarget, prompts: number, figures: object) => ({
  date: new Date().toISOString().replace(/[-:]/g, "").replace("T", "-").slice(0, 15),
  endpoint_type: settings.backend,
  backend: settings.backend,
  label: settings.label ?? settings.backend,
  model_id: target.model,
  tokenizer_id: target.model,
  num_prompts: prompts,
  request_rate: Number.isFinite(settings["request-rate"]) ? settings["request-rate"] : "inf",
  burstiness: settings.burstiness,
  max_concurrency: settings["max-concurrency"] ?? null,
  ...figures,
})

const detailsOf = (outcomes: Awaited<ReturnType<typeof runBench>>["outcomes"]) => ({
  input_lens: outcomes.map(({ promptTokens }) => promptTokens),
  output_lens: outcomes.map(({ outputTokens }) => outputTokens),
  ttfts: outcomes.map(({ ttft }) => ttft),
  itls: outcomes.map(({ itl }) => itl),
  generated_texts: outcomes.map(({ text }) => text),
  errors: outcomes.map(({ error }) => error),
})

const progress = (total: number) => (done: number) =>
  process.stderr.write(done === total ? "\r\u001b[2K" : `\r${done} of ${total} requests`)
