import { randomUUID } from "node:crypto"
import { basename } from "node:path"
import { Engine } from "@uniprefill/engine/Engine"
import { greedy } from "@uniprefill/executor/contract/Executor"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect, FileSystem, Layer, Stream } from "effect"
import type { demoOptions } from "../options/DemoOptions.ts"
import { drawDemo } from "./DemoPicture.ts"
import { makeDemoPrompt } from "./DemoPrompt.ts"
import { type DemoAnswer, makeDemoReport } from "./DemoReport.ts"
import * as EngineLive from "../model/EngineLive.ts"
import { embeddedModel } from "../options/ModelOptions.ts"
import type { OptionValues } from "../options/Options.ts"
import { showing } from "../cli/Progress.ts"
import { UsageError } from "../cli/UsageError.ts"

export type DemoSettings = OptionValues<typeof demoOptions>

/** Hides a sentence in a long text and asks for it, dense and with UniPrefill; prints what that took and what was kept. */
export const demo = (settings: DemoSettings, json: boolean, executorOf: EngineLive.ExecutorOf) =>
  Effect.gen(function* () {
    const directory = settings.model ?? embeddedModel()
    const { schedule } = yield* loadModelDirectory(directory, { dropSchedule: settings["drop-schedule"] })
    const haystack = yield* Effect.flatMap(FileSystem.FileSystem, (files) =>
      files.readFileString(`${embeddedModel()}/demo/haystack.txt`),
    )
    // The same prompt is answered again and again: every time from its first token.
    const uncached = { ...settings, "prefix-caching": "off" } as const
    const services = yield* showing("loading the model …", Layer.build(EngineLive.layer(uncached, [], executorOf)))
    const report = yield* runDemo({ ...settings, name: basename(directory), haystack, schedule }).pipe(
      Effect.provideContext(services),
    )
    // Both are undefined where stdout is not a terminal, whatever their types say.
    const { isTTY, columns } = process.stdout as { readonly isTTY?: boolean; readonly columns?: number }
    const colour = isTTY === true && (process.env.NO_COLOR ?? "") === ""
    process.stdout.write(
      json ? `${JSON.stringify(report, null, 2)}\n` : drawDemo(report, { colour, columns: columns ?? 80 }),
    )
  }).pipe(Effect.scoped)

export interface DemoRun {
  /** The model, for people. */
  readonly name: string
  readonly haystack: string
  readonly schedule: DropSchedule
  readonly tokens: number
  readonly seed: number
  readonly repeat: number
}

/** Longest answer that is waited for. */
const answerTokens = 16
/** A prompt this long, before anything is timed, brings the weights into memory and the kernels into cache. */
const warmUpTokens = 1024

/** Times both sides in turn, so that a machine that slows down slows both. Fails with UsageError where nothing can drop. */
export const runDemo = Effect.fnUntraced(function* ({ name, haystack, schedule, tokens, seed, repeat }: DemoRun) {
  const { model } = yield* Engine
  if (schedule.dropLayers.length === 0) {
    return yield* new UsageError({ message: "this model has no drop schedule, so there is nothing to compare" })
  }
  if (tokens < schedule.minPromptTokens) {
    const message = `--tokens: prompts shorter than ${schedule.minPromptTokens} are served dense, got ${tokens}`
    return yield* new UsageError({ message })
  }
  if (tokens + answerTokens > model.maxModelLen) {
    const message = `--tokens: this model takes ${model.maxModelLen} tokens with an answer of ${answerTokens}, got ${tokens}`
    return yield* new UsageError({ message })
  }
  const prompt = yield* makeDemoPrompt(yield* Tokenizer, haystack, tokens, seed)
  yield* showing("warming up …", ask(prompt.tokens.subarray(0, warmUpTokens), false, 1))
  const dense: Array<DemoAnswer> = []
  const dropped: Array<DemoAnswer> = []
  for (let round = 1; round <= repeat; round++) {
    const of = repeat === 1 ? "" : ` (${round} of ${repeat})`
    dense.push(yield* showing(`reading ${tokens} tokens, dense${of} …`, ask(prompt.tokens, false, answerTokens)))
    dropped.push(yield* showing(`reading ${tokens} tokens, UniPrefill${of} …`, ask(prompt.tokens, true, answerTokens)))
  }
  return makeDemoReport(name, model.executor.device, prompt, model.executor.layout, schedule, dense, dropped)
})

/** One request, greedy. */
const ask = (prompt: Int32Array, drop: boolean, maxTokens: number) =>
  Effect.gen(function* () {
    const engine = yield* Engine
    const [events] = yield* engine.generate({
      requestId: randomUUID(),
      prompt,
      maxTokens,
      sampling: { ...greedy, stopTokenIds: engine.model.spec.eosTokenIds },
      stop: [],
      includeStop: false,
      skipSpecialTokens: true,
      drop,
      minP: undefined,
      priority: 0,
    })
    let text = ""
    let answer: DemoAnswer | undefined
    yield* Stream.runForEach(events, (event) =>
      Effect.sync(() => {
        if (event._tag === "Output") text += event.text
        else if (event._tag === "Finished") {
          const { firstTokenMicros, arrivedMicros } = event.times
          answer = { text, ttftMicros: firstTokenMicros - arrivedMicros, bitmaps: event.bitmaps }
        }
      }),
    )
    return answer!
  }).pipe(Effect.scoped)
