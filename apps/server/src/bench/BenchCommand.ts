import { randomUUID } from "node:crypto"
import { Engine } from "@uniprefill/engine/Engine"
import { greedy } from "@uniprefill/executor/contract/Executor"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import { Random } from "@uniprefill/units/Random"
import { Effect, Layer, Stream } from "effect"
import type { benchDecodeOptions, benchPrefillOptions } from "./EngineBenchOptions.ts"
import * as EngineLive from "../model/EngineLive.ts"
import { executorWith } from "../model/ExecutorLive.ts"
import { embeddedModel } from "../options/ModelOptions.ts"
import type { OptionValues } from "../options/Options.ts"
import { showing } from "../cli/Progress.ts"
import { UsageError } from "../cli/UsageError.ts"

export type BenchPrefillSettings = OptionValues<typeof benchPrefillOptions>
export type BenchDecodeSettings = OptionValues<typeof benchDecodeOptions>

/** Every token is drawn from these, and every answer is of the first: models with random weights may have no others as text. */
const tokens = { first: 10, count: 500 } as const

/** Time to the first token by length of the prompt, dense and with token dropping in turn. */
export const benchPrefill = (settings: BenchPrefillSettings, json: boolean) =>
  Effect.gen(function* () {
    const lengths = yield* Effect.forEach(
      settings["input-len"].length === 0 ? ["8192"] : settings["input-len"],
      lengthOf,
    )
    const shares = yield* Effect.forEach(settings["keep-profile"], shareOf)
    const directory = settings.model ?? embeddedModel()
    const { schedule } = yield* loadModelDirectory(directory, { dropSchedule: settings["drop-schedule"] })
    const drops = schedule.dropLayers.length
    if (shares.length > 0 && shares.length !== drops) {
      const message = `--keep-profile: one share for each of the ${drops} drop layers, got ${shares.length}`
      return yield* new UsageError({ message })
    }
    const profile = shares.length === 0 ? null : { shares, seed: settings.seed }
    const engine = yield* startEngine(settings, profile)
    const random = new Random(settings.seed, "prompts")
    const rows: Array<Readonly<Record<string, unknown>>> = []
    for (const length of lengths) {
      const dense: Array<Timed> = []
      const dropped: Array<Timed> = []
      for (let i = 0; i <= settings["num-iters"]; i++) {
        const what = `${length} tokens, ${i === 0 ? "warming up" : `${i} of ${settings["num-iters"]}`} …`
        const prompt = promptOf(length, random)
        const one = yield* showing(what, ask(engine, prompt, false, 1))
        const other = drops === 0 ? undefined : yield* showing(what, ask(engine, prompt, true, 1))
        if (i === 0) continue
        dense.push(one)
        if (other !== undefined) dropped.push(other)
      }
      const kept = dropped[0]?.kept ?? []
      const of = (all: ReadonlyArray<Timed>) => (all.length === 0 ? null : median(all.map(({ ttftMs }) => ttftMs)))
      const [denseMs, droppedMs] = [of(dense)!, of(dropped)]
      rows.push({
        input_len: length,
        median_ttft_ms: round(denseMs),
        median_ttft_ms_uniprefill: droppedMs === null ? null : round(droppedMs),
        speedup: droppedMs === null ? null : round(denseMs / droppedMs),
        kept: kept.map(round),
      })
    }
    const { device, tensorParallel } = engine.model.executor
    const keeps = profile === null ? "chosen by scores" : "synthetic"
    if (json) {
      const head = { device, tensor_parallel_size: tensorParallel, model: directory, keeps }
      return print(JSON.stringify({ ...head, results: rows }, null, 2))
    }
    print(
      `${directory} on ${device}, tensor parallel ${tensorParallel}; batch 1, medians of ${settings["num-iters"]}; rows kept: ${keeps}`,
    )
    for (const row of rows) {
      const { input_len, median_ttft_ms, median_ttft_ms_uniprefill: other, speedup, kept } = row as Record<string, any>
      const beside = other === null ? "" : `, UniPrefill ${other} ms (${speedup}×), kept ${keeps}: ${kept.join(" ")}`
      print(`${String(input_len).padStart(8)} tokens: TTFT dense ${median_ttft_ms} ms${beside}`)
    }
  }).pipe(Effect.scoped)

/** Time per output token of requests that decode together, their prompts being done. */
export const benchDecode = (settings: BenchDecodeSettings, json: boolean) =>
  Effect.gen(function* () {
    const { "num-prompts": count, "input-len": input, "output-len": output } = settings
    const engine = yield* startEngine({ ...settings, "max-num-seqs": Math.max(count, settings["max-num-seqs"]) }, null)
    const random = new Random(settings.seed, "prompts")
    const round1 = (outputTokens: number) =>
      Effect.all(
        Array.from({ length: count }, () => ask(engine, promptOf(input, random), false, outputTokens)),
        { concurrency: "unbounded" },
      )
    yield* showing("warming up …", round1(8))
    const all = yield* showing(`decoding ${count} × ${input} tokens …`, round1(output))
    // Where all of them decode: from the last first token to the first end.
    const begin = Math.max(...all.map(({ firstMs }) => firstMs))
    const end = Math.min(...all.map(({ finishedMs }) => finishedMs))
    const between = all.flatMap(({ tokenMs }) => {
      const own = tokenMs.filter((at) => at >= begin && at <= end)
      return own.slice(1).map((at, i) => at - own[i]!)
    })
    if (between.length === 0) {
      const message = "--output-len: the first answers ended before the last prompt was done; give more tokens"
      return yield* new UsageError({ message })
    }
    const sorted = between.toSorted((a, b) => a - b)
    const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!
    const row = {
      device: engine.model.executor.device,
      tensor_parallel_size: engine.model.executor.tensorParallel,
      model: settings.model ?? embeddedModel(),
      num_prompts: count,
      input_len: input,
      output_len: output,
      mean_itl_ms: round(between.reduce((sum, one) => sum + one, 0) / between.length),
      median_itl_ms: round(at(0.5)),
      p99_itl_ms: round(at(0.99)),
      output_throughput: round((1000 * count * between.length) / between.reduce((sum, one) => sum + one, 0)),
    }
    if (json) return print(JSON.stringify(row, null, 2))
    print(
      `${row.model} on ${row.device}, tensor parallel ${row.tensor_parallel_size}; ${count} requests of ${input} tokens, ${output} output tokens each`,
    )
    print(
      `ITL mean ${row.mean_itl_ms} ms, median ${row.median_itl_ms}, P99 ${row.p99_itl_ms}; ${row.output_throughput} tokens/s`,
    )
  }).pipe(Effect.scoped)

const startEngine = Effect.fnUntraced(function* (
  settings: BenchPrefillSettings | BenchDecodeSettings,
  profile: Parameters<typeof executorWith>[0],
) {
  // Every prompt is computed from its first token.
  const model = { ...settings, "prefix-caching": "off" } as const
  const services = yield* showing(
    "loading the model …",
    Layer.build(EngineLive.layer(model, [], executorWith(profile))),
  )
  return yield* Effect.provideContext(Engine, services)
})

interface Timed {
  readonly ttftMs: number
  readonly firstMs: number
  readonly finishedMs: number
  /** When each event with tokens was read. */
  readonly tokenMs: ReadonlyArray<number>
  readonly kept: ReadonlyArray<number>
}

const ask = (engine: Engine["Service"], prompt: Int32Array, drop: boolean, maxTokens: number) =>
  Effect.gen(function* () {
    const [events] = yield* engine.generate({
      requestId: randomUUID(),
      prompt,
      maxTokens,
      sampling: { ...greedy, allowedTokenIds: [tokens.first] },
      stop: [],
      includeStop: false,
      skipSpecialTokens: true,
      drop,
      minP: undefined,
      priority: 0,
    })
    const tokenMs: Array<number> = []
    let timed: Omit<Timed, "tokenMs"> | undefined
    yield* Stream.runForEach(events, (event) =>
      Effect.sync(() => {
        if (event._tag === "Output") {
          if (event.tokens.length > 0) tokenMs.push(performance.now())
          return
        }
        const { arrivedMicros, firstTokenMicros } = event.times
        timed = {
          ttftMs: (firstTokenMicros - arrivedMicros) / 1000,
          firstMs: tokenMs[0] ?? 0,
          finishedMs: tokenMs.at(-1) ?? 0,
          kept: event.kept,
        }
      }),
    )
    return { ...timed!, tokenMs } satisfies Timed
  }).pipe(Effect.scoped)

const promptOf = (length: number, random: Random): Int32Array =>
  Int32Array.from({ length }, () => tokens.first + random.below(tokens.count))

const lengthOf = (text: string) => numberOf("--input-len", text, (value) => Number.isInteger(value) && value > 0)
const shareOf = (text: string) => numberOf("--keep-profile", text, (value) => value > 0 && value <= 1)

const numberOf = (option: string, text: string, accepts: (value: number) => boolean) => {
  const value = Number(text)
  if (text.trim() !== "" && accepts(value)) return Effect.succeed(value)
  return Effect.fail(new UsageError({ message: `${option}: ${JSON.stringify(text)} is not one` }))
}

const median = (list: ReadonlyArray<number>): number => list.toSorted((a, b) => a - b)[list.length >> 1]!
const round = (value: number): number => Number(value.toPrecision(5))
const print = (line: string) => void process.stdout.write(`${line}\n`)
