/**
 * 256 streams at once through the engine on a device, two steps in flight: prompts of all lengths, dense and dropping, penalties, min_tokens,
 * ends of text, and clients that leave.
 *
 *     node --conditions=source test/gpu/streams.ts [--executor cuda|cpu] [--model DIR] [--streams 256] [--seconds 0]
 *         [--tensor-parallel-size 1] [--out FOLDER]
 *
 * As many again follow until `--seconds` are over. At most 256 streams are then forced through the model alone: each of their tokens must be
 * within `tau` of the largest logit, after penalties, that stands there; its selections may differ from its own only at the cut
 * (p ± `epsilon`). Both are counted. Of several ranks the same is done on one, whose selections are counted alone: other sums round
 * otherwise. When all is over nothing is held. The first streams' contents and plans, given to a fresh executor, must give the same
 * bits.
 */
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { NodeServices } from "@effect/platform-node"
import { Engine, type GenerateRequest } from "@uniprefill/engine/Engine"
import { layerCpu, layerCuda } from "@uniprefill/executor-native/NativeExecutor"
import { Executor, greedy } from "@uniprefill/executor/contract/Executor"
import { uniformNumbers } from "@uniprefill/executor/reference/ReferenceModel"
import { adjustedLogits } from "@uniprefill/executor/reference/ReferenceSampler"
import { pToQ32 } from "@uniprefill/model/DropSchedule"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import { Effect, Fiber, Layer, References, Stream } from "effect"
import * as EngineLive from "uniprefill/model/EngineLive"
import { embeddedModel, type ModelSettings } from "uniprefill/options/ModelOptions"
import { promptMaker, readHaystack } from "uniprefill/quality/Asking"
import { trainedKinds } from "uniprefill/quality/Tasks"
import { settingsOf } from "./ServerDefaults.ts"
import { type Device, openModel } from "../conformance/Machine.ts"
import { type LoggedEvent, logged, replayed } from "../conformance/StepLog.ts"
import { cutDifference, teacherForced } from "../conformance/TeacherForcing.ts"

const { values } = parseArgs({
  options: {
    executor: { type: "string", default: "cuda" },
    model: { type: "string", default: embeddedModel() },
    streams: { type: "string", default: "256" },
    seconds: { type: "string", default: "0" },
    "tensor-parallel-size": { type: "string", default: "1" },
    out: { type: "string", default: "build/gpu-results" },
  },
})
const device = values.executor as Device
const streams = Number(values.streams)
const tensorParallel = Number(values["tensor-parallel-size"])
const mostForced = 256
const tau = 0.25
const epsilon = 0.01
const memoryBytes = 2 ** 30
const slots = 64

const random = uniformNumbers(20_261)
const below = (count: number): number => Math.floor(random() * count)

interface Asked {
  readonly request: GenerateRequest
  /** Tokens after which the client leaves. */
  readonly leavesAfter: number
}

interface Outcome {
  readonly tokens: ReadonlyArray<number>
  /** How it ended; null for one whose client left. */
  readonly reason: string | null
  readonly bitmaps: ReadonlyArray<Uint32Array>
}

/** The ends of prompts of the tasks that the model knows. */
const makeRequests = (
  texts: ReadonlyArray<Int32Array>,
  eos: ReadonlyArray<number>,
  round: number,
): ReadonlyArray<Asked> =>
  Array.from({ length: streams }, (_, i) => {
    const text = texts[below(texts.length)]!
    const long = i % 4 === 0
    const length = Math.min(text.length, long ? 1024 + below(1500) : 1 + below(600))
    const penalised = i % 2 === 0
    const request: GenerateRequest = {
      requestId: `stream ${round}.${i}`,
      prompt: text.slice(text.length - length),
      maxTokens: 4 + below(60),
      sampling: {
        ...greedy,
        seed: BigInt(i),
        stopTokenIds: [...eos],
        minTokens: i % 3 === 0 ? below(20) : 0,
        repetitionPenalty: penalised ? 1 + 0.3 * random() : 1,
        frequencyPenalty: penalised ? 0.5 * random() : 0,
        presencePenalty: penalised ? 0.5 * random() : 0,
      },
      stop: [],
      includeStop: false,
      skipSpecialTokens: true,
      drop: i % 8 !== 4,
      minP: undefined,
      priority: 0,
    }
    return { request, leavesAfter: i % 5 === 1 ? below(20) : Number.POSITIVE_INFINITY }
  })

const run = (engine: Engine["Service"], { request, leavesAfter }: Asked) =>
  Effect.scoped(
    Effect.gen(function* () {
      const tokens: Array<number> = []
      let outcome: Outcome = { tokens, reason: null, bitmaps: [] }
      const [events] = yield* engine.generate(request)
      yield* events.pipe(
        Stream.takeWhile(() => tokens.length <= leavesAfter),
        Stream.runForEach((event) =>
          Effect.sync(() => {
            if (event._tag === "Output") tokens.push(...event.tokens)
            else outcome = { tokens, reason: event.reason, bitmaps: event.bitmaps }
          }),
        ),
      )
      return outcome
    }),
  )

const program = Effect.gen(function* () {
  const model = yield* loadModelDirectory(values.model).pipe(Effect.provide(NodeServices.layer))
  const { schedule } = model
  const common = { model, schedule, slots, memoryBytes, maxTokens: 4096, tensorParallel }
  const executorLayer = device === "cuda" ? layerCuda(common) : layerCpu({ ...common, threads: 2 })
  const log: Array<LoggedEvent> = []
  let replayable = 0
  const settings = {
    ...settingsOf(values.model),
    executor: device,
    "max-model-len": 4096,
    "tensor-parallel-size": tensorParallel,
  } as ModelSettings
  const loggedLayer = Layer.effect(
    Executor,
    Effect.map(Executor, (executor) => logged(executor, log)),
  ).pipe(Layer.provide(executorLayer))

  const startMs = performance.now()
  const { asked, outcomes, left } = yield* Effect.scoped(
    Effect.gen(function* () {
      const services = yield* Layer.build(EngineLive.layer(settings, [], () => loggedLayer))
      const engine = yield* Effect.provideContext(Engine, services)
      const texts = yield* Effect.gen(function* () {
        const make = yield* promptMaker(yield* readHaystack(undefined))
        return yield* Effect.forEach(trainedKinds, (kind) =>
          Effect.map(make(kind, 2600, 11, 0), ({ prompt }) => prompt.tokens),
        )
      }).pipe(Effect.provideContext(services))
      const requests: Array<Asked> = []
      const ended: Array<Outcome> = []
      for (let round = 0; round === 0 || performance.now() - startMs < 1000 * Number(values.seconds); round++) {
        const ours = makeRequests(texts, model.eosTokenIds, round)
        const fibers: Array<Fiber.Fiber<Outcome, unknown>> = []
        for (const one of ours) {
          fibers.push(yield* Effect.forkChild(run(engine, one)))
          if (below(4) === 0) yield* Effect.sleep(below(8))
        }
        for (const fiber of fibers) ended.push(yield* Fiber.join(fiber))
        requests.push(...ours)
        while ((yield* engine.status).stepInFlight > 0) yield* Effect.sleep(1)
        if (round === 0) replayable = log.length
      }
      const { running, waiting, slabsUsed, failures } = yield* engine.status
      return { asked: requests, outcomes: ended, left: { running, waiting, slabsUsed, failures } }
    }),
  )
  const servedSeconds = (performance.now() - startMs) / 1000
  console.log(
    `${asked.length} streams in ${servedSeconds.toFixed(1)} s, ${log.length} events; left behind: ${JSON.stringify(left)}`,
  )

  const again = yield* Effect.scoped(
    Effect.gen(function* () {
      const executor = yield* Effect.provideContext(Executor, yield* Layer.build(executorLayer))
      return yield* Effect.promise(() => replayed(executor, log.slice(0, replayable)))
    }),
  )
  console.log(`the same plans again: ${again.results} steps, ${again.differing.length} differ`)

  const ends: Record<string, number> = {}
  for (const { reason } of outcomes) ends[reason ?? "left"] = (ends[reason ?? "left"] ?? 0) + 1
  console.log(`ended: ${JSON.stringify(ends)}`)

  const everyOne = Math.ceil(outcomes.length / mostForced)
  const forcedOn = Effect.fnUntraced(function* (ranks: number) {
    const sizes = { maxTokens: 4096, memoryBytes, tensorParallel: ranks }
    const machine = yield* Effect.promise(() => openModel(device, model, schedule, sizes))
    const seen = { streams: 0, tokens: 0, notLargest: 0, behind: 0, selections: 0, different: 0, blocks: 0, outside: 0 }
    for (let i = 0; i < outcomes.length; i += everyOne) {
      const { tokens, reason, bitmaps } = outcomes[i]!
      const { prompt, sampling, drop } = asked[i]!.request
      const drops = drop && prompt.length >= schedule.minPromptTokens
      // Of one whose client left nobody was told what was kept.
      if (tokens.length === 0 || (drops && reason === null)) continue
      const pQ32 = drops ? schedule.dropLayers.map(({ p }) => pToQ32(p)) : null
      const forced = yield* Effect.promise(() => teacherForced(machine, { prompt, pQ32 }, tokens, drops ? bitmaps : []))
      seen.streams++
      for (const [n, row] of forced.entries()) {
        const logits = adjustedLogits(Float64Array.from(row), sampling, prompt, tokens.slice(0, n))
        const behind = logits.reduce((most, logit) => Math.max(most, logit)) - logits[tokens[n]!]!
        seen.tokens++
        if (behind > 0) seen.notLargest++
        seen.behind = Math.max(seen.behind, behind)
      }
      if (pQ32 === null) continue
      const cut = yield* Effect.promise(() => cutDifference(machine, { prompt, pQ32 }, bitmaps, epsilon))
      for (const name of ["selections", "different", "blocks", "outside"] as const) seen[name] += cut[name]
    }
    yield* Effect.promise(() => machine.close())
    console.log(
      `${seen.streams} streams forced, ${ranks === 1 ? "one device" : `${ranks} devices`}: ${seen.notLargest} of ${seen.tokens} tokens not the largest, at most ` +
        `${seen.behind.toFixed(4)} behind (tau ${tau}); ${seen.different} of ${seen.selections} selections differ, in ${seen.blocks} blocks, ` +
        `${seen.outside} of them not at the cut`,
    )
    return seen
  })
  const seen = yield* forcedOn(tensorParallel)
  const onOne = tensorParallel === 1 ? seen : yield* forcedOn(1)
  const ok =
    seen.behind <= tau &&
    onOne.behind <= tau &&
    seen.outside === 0 &&
    again.differing.length === 0 &&
    left.running + left.waiting + left.slabsUsed + left.failures === 0 &&
    seen.streams > Math.min(outcomes.length, mostForced) / 3
  mkdirSync(values.out, { recursive: true })
  const result = {
    device,
    tensorParallel,
    asked: asked.length,
    seconds: servedSeconds,
    tau,
    epsilon,
    ends,
    left,
    replayed: again,
    ...seen,
    ok,
  }
  writeFileSync(join(values.out, "streams.json"), `${JSON.stringify(result, null, 1)}\n`)
  console.log(ok ? "all hold" : "FAILED")
  if (!ok) process.exitCode = 1
})

await Effect.runPromise(program.pipe(Effect.scoped, Effect.provideService(References.MinimumLogLevel, "Warn")))
