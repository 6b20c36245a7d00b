/**
 * A model served on a device, and predicted: what `uniprefill bench ops` measured, put into the simulator, beside what the engine does.
 *
 *     node --conditions=source test/gpu/serve.ts --model DIR --calibration FILE [--executor cuda|cpu] [--keep-profile SHARE,…]
 *         [--parts prediction,interference,concurrency,fits] [--tensor-parallel-size 1] [--scale 1] [--seconds 20] [--out FOLDER]
 *
 * prediction: at 30, 70, 90 and 110% of the simulator's capacity, times to the first token and per token against those of a simulation of
 *   the same arrivals; the recording replays with no plan that differs.
 * interference: gaps between the tokens of 32 requests while a prompt of 131,072 tokens is computed, with the step budget and without.
 * concurrency: 16 prompts of 32,768 tokens at once, dense and dropping, beside one at a time; and one of 8,192 and of 131,072.
 * fits: requests of 32,768 and 131,072 tokens that decode at the same time, dense and dropping.
 *
 * The model has random weights where a keep profile is given; its keeps are synthetic. `--scale` divides every length, for small machines.
 */
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { inSixteenBits } from "@uniprefill/cost-model/ModelShape"
import { readRecording } from "@uniprefill/recording/RecordingFile"
import { replay } from "@uniprefill/recording/Replay"
import { fcfs } from "@uniprefill/scheduler/Policy"
import { servingDefaults } from "@uniprefill/scheduler/ServingDefaults"
import { devices } from "@uniprefill/simulator/device/Devices"
import { percentile } from "@uniprefill/simulator/metrics/Distribution"
import { constantKeep } from "@uniprefill/simulator/model/KeepProfile"
import type { Setup } from "@uniprefill/simulator/Setup"
import { Simulation } from "@uniprefill/simulator/Simulation"
import { openLoop } from "@uniprefill/simulator/workload/Generate"
import { parseLengths } from "@uniprefill/simulator/workload/LengthText"
import type { Workload } from "@uniprefill/simulator/workload/Workload"
import { Deferred, Effect, Fiber } from "effect"
import type { Device } from "../conformance/Machine.ts"
import { type Answer, ask, type Keeps, OneExecutor } from "./OneExecutor.ts"

const { values } = parseArgs({
  options: {
    executor: { type: "string", default: "cuda" },
    model: { type: "string" },
    calibration: { type: "string" },
    "keep-profile": { type: "string", default: "" },
    parts: { type: "string", default: "prediction,interference,concurrency,fits" },
    scale: { type: "string", default: "1" },
    seconds: { type: "string", default: "20" },
    slots: { type: "string", default: "128" },
    "tensor-parallel-size": { type: "string", default: "1" },
    out: { type: "string", default: "build/gpu-results" },
  },
})
if (values.model === undefined || values.calibration === undefined) {
  console.error("usage: serve.ts --model DIR --calibration FILE")
  process.exit(2)
}
const scale = Number(values.scale)
const scaled = (tokens: number): number => Math.max(64, Math.round(tokens / scale))
const seconds = Number(values.seconds)
mkdirSync(values.out, { recursive: true })

/** The keeps of docs/benchmarks/gpu.md, by length. */
const profiles: ReadonlyArray<readonly [tokens: number, shares: ReadonlyArray<number>]> = [
  [32_768, [0.86, 0.8, 0.75, 0.69, 0.64, 0.58]],
  [65_536, [0.82, 0.74, 0.67, 0.59, 0.52, 0.45]],
  [131_072, [0.74, 0.64, 0.54, 0.44, 0.34, 0.24]],
]
const given = values["keep-profile"] === "" ? [] : values["keep-profile"].split(",").map(Number)
const keeps: Keeps = { shares: given }
/** Of the table where it has as many drop layers as were given, else what was given. */
const keepAs = (tokens: number): void => {
  const shares = profiles.find(([most]) => tokens <= most)![1]
  if (given.length === shares.length) keeps.shares = shares
}

const results: Record<string, unknown> = {}
const round = (value: number): number => Number(value.toPrecision(5))
const median = (list: ReadonlyArray<number>): number => list.toSorted((a, b) => a - b)[list.length >> 1]!
const at = (list: ReadonlyArray<number>, p: number): number =>
  percentile(
    list.toSorted((a, b) => a - b),
    p,
  )

// -------------------------------------------------------------------------------------------------- prediction

const setupOf = ({ executor, model, calibration }: OneExecutor): Setup => {
  const { info } = executor
  const device = devices.get("h100")!
  const cuda = values.executor === "cuda"
  const budget = servingDefaults.stepBudgetMicros.cpu
  return {
    model: inSixteenBits(model.spec),
    schedule: model.schedule,
    keep: constantKeep(given),
    device: { ...device, calibration: calibration! },
    tensorParallel: info.tensorParallel,
    replicas: 1,
    router: "least-loaded",
    policy: fcfs,
    seed: 1,
    engine: {
      ...servingDefaults,
      sloP: 0,
      pageSize: info.layout.pageSize,
      slots: info.slots,
      snapshots: 0,
      maxRowsPerStep: info.maxRowsPerStep,
      stepBudgetMicros: cuda ? 50_000 : budget,
      idleStepBudgetMicros: Math.max(cuda ? 50_000 : budget, servingDefaults.idleStepBudgetMicros.cpu),
      maxStepsInFlight: cuda ? 2 : servingDefaults.maxStepsInFlight,
      maxModelLen: info.maxTokens,
      memoryUtilization: 0.9,
      slabs: info.slabs,
      efficiency: 1,
      prefixCaching: false,
    },
    // Times are counted from the submission; planning is hidden where a second step is in flight.
    host: {
      stepMicros: 150,
      launchMicros: 0,
      itemMicros: 0,
      layerMicros: 0,
      readBackMicros: 0,
      admissionMicros: 0,
      tokenizeMicrosPerToken: 0,
      link: "peer-to-peer",
    },
    faults: { slowSteps: 0, slowFactor: 1, failedSteps: 0, recoveryMicros: 0, cancelled: 0, cancelWithinMicros: 0 },
    ttftTargetMicros: 0,
    timeoutMicros: 0,
    untilMicros: 0,
  }
}

/** Times to the first token and per token, ms, of a simulation. */
const simulated = (setup: Setup, workload: Workload) => {
  const simulation = new Simulation(setup, workload)
  simulation.advance()
  const { log, counters } = simulation
  const rows = Array.from({ length: workload.count }, (_, row) => row)
  const tpots = rows
    .filter((row) => log.outputs[row]! > 1)
    .map((row) => (log.lastToken[row]! - log.firstToken[row]!) / 1000 / (log.outputs[row]! - 1))
  return {
    ttft: rows.map((row) => (log.firstToken[row]! - log.arrival[row]!) / 1000),
    tpot: tpots,
    seconds: simulation.now / 1e6,
    outside: counters.stepsOutsideCalibration / counters.steps,
  }
}

const lengths = {
  prompt: parseLengths("prompt", `lognormal:${scaled(3000)},0.8,${scaled(16_000)}`),
  output: parseLengths("output", `lognormal:${scaled(100)},0.5,${scaled(400)}`),
}

const prediction = Effect.fnUntraced(function* (one: OneExecutor) {
  const setup = setupOf(one)
  const load = (requests: number, ratePerSecond: number, seed: number): Workload =>
    openLoop({ seed, requests, ...lengths, arrivals: { process: "poisson", ratePerSecond } })
  // What is served of a load without end.
  const burst = load(400, 1e6, 1)
  const capacity = burst.count / simulated(setup, burst).seconds
  console.log(`prediction: capacity ${capacity.toFixed(2)} requests/s by the simulator`)
  const rows: Array<Record<string, unknown>> = []
  const file = join(values.out, "served.recording.jsonl.gz")
  yield* one.engine({ record: file }, (engine) =>
    Effect.gen(function* () {
      yield* ask(engine, { length: scaled(4000), maxTokens: 8, drop: true })
      for (const [i, share] of [0.3, 0.7, 0.9, 1.1].entries()) {
        const rate = share * capacity
        const workload = load(Math.max(20, Math.round(seconds * rate)), rate, 2 + i)
        const startMs = performance.now()
        const fibers: Array<Fiber.Fiber<Answer, unknown>> = []
        for (let row = 0; row < workload.count; row++) {
          const wait = workload.arrivalMicros[row]! / 1000 - (performance.now() - startMs)
          if (wait > 0) yield* Effect.sleep(wait)
          const request = { length: workload.promptTokens[row]!, maxTokens: workload.outputTokens[row]!, drop: true }
          fibers.push(yield* Effect.forkChild(ask(engine, request)))
        }
        const answers: Array<Answer> = []
        for (const fiber of fibers) answers.push(yield* Fiber.join(fiber))
        // The same arrivals as they were.
        const first = Math.min(...answers.map(({ arrivedMicros }) => arrivedMicros))
        const arrivalMicros = Float64Array.from(answers, ({ arrivedMicros }) => arrivedMicros - first)
        const made = simulated(setup, { ...workload, arrivalMicros })
        const real = {
          ttft: answers.map(({ ttftMs }) => ttftMs),
          tpot: answers.map(({ tpotMs }) => tpotMs).filter((ms) => !Number.isNaN(ms)),
        }
        const figures: Record<string, unknown> = {}
        for (const name of ["ttft", "tpot"] as const) {
          for (const p of [0.5, 0.95]) {
            const [measured, predicted] = [at(real[name], p), at(made[name], p)]
            figures[`${name}_p${100 * p}`] = {
              measured: round(measured),
              predicted: round(predicted),
              error: round(predicted / measured - 1),
            }
          }
        }
        rows.push({
          load: share,
          requests: workload.count,
          rate: round(rate),
          outside: round(made.outside),
          ...figures,
        })
        console.log(JSON.stringify(rows.at(-1)))
      }
    }),
  )
  const { header, events } = yield* readRecording(file)
  const report = replay(header, events)
  console.log(
    report.difference === null
      ? `replayed: ${report.plans} plans from ${report.events} events, none differs`
      : `replayed: DIFFERS at step ${report.difference.step}: ${report.difference.detail}`,
  )
  if (report.difference !== null) process.exitCode = 1
  results["prediction"] = { capacity: round(capacity), loads: rows, plans: report.plans, difference: report.difference }
})

// ------------------------------------------------------------------------------------------------ interference

const interference = Effect.fnUntraced(function* (one: OneExecutor) {
  const rows: Array<Record<string, unknown>> = []
  const tokens = Math.min(scaled(131_072), one.executor.info.maxTokens - 64)
  keepAs(tokens)
  for (const [chunked, drop] of [
    [true, false],
    [true, true],
    [false, false],
  ] as const) {
    // Without: every step as long as its rows allow.
    const settings = chunked ? {} : { "step-budget-ms": 600_000 }
    const row = yield* one.engine(settings, (engine) =>
      Effect.gen(function* () {
        const times: Array<Array<number>> = Array.from({ length: 32 }, () => [])
        let decoding = 0
        const all = yield* Deferred.make<void>()
        const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
        for (const own of times) {
          const seen = () => {
            own.push(performance.now())
            if (own.length === 10 && ++decoding === times.length) Deferred.doneUnsafe(all, Effect.void)
          }
          fibers.push(
            yield* Effect.forkChild(ask(engine, { length: scaled(2048), maxTokens: scaled(8192), drop: false }, seen)),
          )
        }
        yield* Deferred.await(all)
        const begin = performance.now()
        const { ttftMs } = yield* ask(engine, { length: tokens, maxTokens: 1, drop })
        const end = performance.now()
        for (const fiber of fibers) yield* Fiber.interrupt(fiber)
        const gaps = times.flatMap((own) => {
          const within = own.filter((ms) => ms >= begin && ms <= end)
          return within.slice(1).map((ms, i) => ms - within[i]!)
        })
        const longest = times.map((own) => {
          const within = [begin, ...own.filter((ms) => ms >= begin && ms <= end), end]
          return Math.max(...within.slice(1).map((ms, i) => ms - within[i]!))
        })
        return {
          chunked,
          drop,
          tokens,
          ttft_ms: round(ttftMs),
          p50_itl_ms: gaps.length === 0 ? null : round(at(gaps, 0.5)),
          p99_itl_ms: gaps.length === 0 ? null : round(at(gaps, 0.99)),
          max_itl_ms: round(Math.max(...longest)),
        }
      }),
    )
    rows.push(row)
    console.log(`interference: ${JSON.stringify(row)}`)
  }
  results["interference"] = rows
})

// ------------------------------------------------------------------------------------------------- concurrency

const concurrency = (one: OneExecutor) =>
  one.engine({}, (engine) =>
    Effect.gen(function* () {
      const most = one.executor.info.maxTokens - 64
      const rows: Array<Record<string, unknown>> = []
      for (const [tokens, repeats] of [
        [8192, 5],
        [32_768, 3],
        [131_072, 1],
      ] as const) {
        const length = Math.min(scaled(tokens), most)
        keepAs(tokens)
        const times = { dense: [] as Array<number>, dropped: [] as Array<number> }
        for (let i = 0; i <= repeats; i++) {
          const dense = yield* ask(engine, { length, maxTokens: 1, drop: false })
          const dropped = yield* ask(engine, { length, maxTokens: 1, drop: true })
          // The first of each warms up.
          if (i === 0 && tokens < 100_000) continue
          times.dense.push(dense.ttftMs)
          times.dropped.push(dropped.ttftMs)
        }
        const [dense, dropped] = [median(times.dense), median(times.dropped)]
        rows.push({
          prompts: 1,
          tokens: length,
          dense_ms: round(dense),
          dropped_ms: round(dropped),
          gain: round(dense / dropped),
        })
        console.log(`concurrency: ${JSON.stringify(rows.at(-1))}`)
      }
      const length = Math.min(scaled(32_768), most)
      keepAs(32_768)
      const together = (drop: boolean) =>
        Effect.gen(function* () {
          const startMs = performance.now()
          yield* Effect.all(
            Array.from({ length: 16 }, () => ask(engine, { length, maxTokens: 1, drop })),
            { concurrency: "unbounded" },
          )
          return performance.now() - startMs
        })
      const dense = yield* together(false)
      const dropped = yield* together(true)
      rows.push({
        prompts: 16,
        tokens: length,
        dense_ms: round(dense),
        dropped_ms: round(dropped),
        gain: round(dense / dropped),
      })
      console.log(`concurrency: ${JSON.stringify(rows.at(-1))}`)
      results["concurrency"] = rows
    }),
  )

// -------------------------------------------------------------------------------------------------------- fits

/** Requests that decode at the same time, more of them waiting. */
const fits = Effect.fnUntraced(function* (one: OneExecutor) {
  const rows: Array<Record<string, unknown>> = []
  for (const [tokens, offered] of [
    [32_768, 64],
    [131_072, 16],
  ] as const) {
    const length = Math.min(scaled(tokens), one.executor.info.maxTokens - 512)
    keepAs(tokens)
    const counts: Array<number> = []
    for (const drop of [false, true]) {
      const count = yield* one.engine({ "step-budget-ms": 600_000 }, (engine) =>
        Effect.gen(function* () {
          let decoding = 0
          const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
          for (let i = 0; i < offered; i++) {
            let first = true
            const seen = () => {
              if (first) decoding++
              first = false
            }
            fibers.push(yield* Effect.forkChild(ask(engine, { length, maxTokens: 512, drop }, seen)))
          }
          // Whoever runs has a token, and the others are not let in.
          let { running, waiting } = yield* engine.status
          const someAreLeft = () => decoding < offered
          for (let still = 0; still < 10 && someAreLeft();) {
            yield* Effect.sleep(20)
            ;({ running, waiting } = yield* engine.status)
            still = decoding > 0 && running === decoding && waiting > 0 ? still + 1 : 0
          }
          for (const fiber of fibers) yield* Fiber.interrupt(fiber)
          return { decoding, running, waiting }
        }),
      )
      counts.push(count.decoding)
      console.log(`fits: ${length} tokens, ${drop ? "dropping" : "dense"}: ${JSON.stringify(count)}`)
    }
    rows.push({
      tokens: length,
      slabs: one.executor.info.slabs,
      dense: counts[0],
      dropping: counts[1],
      ratio: round(counts[1]! / counts[0]!),
    })
  }
  results["fits"] = rows
})

const parts: Readonly<Record<string, (one: OneExecutor) => Effect.Effect<void, unknown>>> = {
  prediction: prediction,
  interference: interference,
  concurrency: concurrency,
  fits: fits,
}

const program = Effect.gen(function* () {
  const one = yield* OneExecutor.open({
    device: values.executor as Device,
    model: values.model!,
    calibration: values.calibration,
    keeps,
    slots: Number(values.slots),
    tensorParallel: Number(values["tensor-parallel-size"]),
  })
  const { info } = one.executor
  console.log(
    `${info.device}: ${info.slabs} slabs of ${info.layout.slabBytes} bytes, ${info.maxRowsPerStep} rows a step`,
  )
  results["device"] = info.device
  results["keeps"] = given.length === 0 ? "chosen by scores" : "synthetic"
  for (const part of values.parts.split(",")) {
    const startMs = performance.now()
    yield* parts[part]!(one)
    console.log(`${part}: ${((performance.now() - startMs) / 1000).toFixed(1)} s`)
    writeFileSync(join(values.out, "serve.json"), `${JSON.stringify(results, null, 1)}\n`)
  }
})

await Effect.runPromise(Effect.scoped(program))
