import { writeFile } from "node:fs/promises"
import { basename } from "node:path"
import { Engine } from "@uniprefill/engine/Engine"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import { Effect, Layer } from "effect"
import { showing } from "../cli/Progress.ts"
import { UsageError } from "../cli/UsageError.ts"
import * as EngineLive from "../model/EngineLive.ts"
import type { accuracyOptions } from "../options/AccuracyOptions.ts"
import { embeddedModel } from "../options/ModelOptions.ts"
import type { OptionValues } from "../options/Options.ts"
import { accuracyHtml } from "./AccuracyHtml.ts"
import { accuracyReport, accuracyText } from "./AccuracyReport.ts"
import { answerCase, type Case, denseVariant, type Outcome, type Variant } from "./AccuracyRun.ts"
import { promptMaker, readHaystack } from "./Asking.ts"
import { readCases } from "./CaseFile.ts"

export type AccuracySettings = OptionValues<typeof accuracyOptions>

/** Asks a model questions dense and with token dropping; prints how often each is right. */
export const accuracy = (settings: AccuracySettings, json: boolean, executorOf: EngineLive.ExecutorOf) =>
  Effect.gen(function* () {
    const directory = settings.model ?? embeddedModel()
    const { schedule } = yield* loadModelDirectory(directory, { dropSchedule: settings["drop-schedule"] })
    if (schedule.dropLayers.length === 0) {
      const message = "this model has no drop schedule, so there is nothing to compare; uniprefill calibrate makes one"
      return yield* new UsageError({ message })
    }
    const variants: ReadonlyArray<Variant> = [
      denseVariant,
      { name: "dropped", minP: 0 },
      ...settings.p.map((p) => ({ name: `p ≥ ${p}`, minP: p })),
    ]
    // Variants share what they compute up to the first drop layer.
    const shared = { ...settings, "prefix-caching": "on" } as const
    const services = yield* showing("loading the model …", Layer.build(EngineLive.layer(shared, [], executorOf)))
    const report = yield* Effect.gen(function* () {
      const { model } = yield* Engine
      const cases = settings.cases === undefined ? yield* generatedCases(settings) : yield* readCases(settings.cases)
      const room = model.maxModelLen - settings["max-tokens"]
      const long = cases.find(({ prompt }) => prompt.length > room)
      if (long !== undefined) {
        const message = `${long.id}: ${long.prompt.length} tokens, and with an answer of ${settings["max-tokens"]} this model takes ${room}`
        return yield* new UsageError({ message })
      }
      const outcomes: ReadonlyArray<Outcome> = yield* Effect.forEach(
        cases,
        (one, i) => {
          const what = `${one.task}, ${one.prompt.length} tokens: prompt ${i + 1} of ${cases.length} …`
          // Each variant in its turn finds nothing in the cache.
          return showing(
            what,
            answerCase(one, variants, (i + Math.floor(i / variants.length)) % variants.length, settings["max-tokens"]),
          )
        },
        { concurrency: settings["at-once"] },
      )
      const { device } = model.executor
      const { dropLayers } = schedule
      const about = { model: basename(directory), device, schedule: dropLayers, seed: settings.seed }
      return accuracyReport(about, variants, outcomes)
    }).pipe(Effect.provideContext(services))
    if (settings.html !== undefined) yield* writeReport(settings.html, accuracyHtml(report))
    process.stdout.write(json ? `${JSON.stringify(report, null, 2)}\n` : accuracyText(report))
  }).pipe(Effect.scoped)

/** Fails with UsageError where the file cannot be written. */
export const writeReport = (file: string, text: string): Effect.Effect<void, UsageError> =>
  Effect.tryPromise({
    try: () => writeFile(file, text),
    catch: (cause) => new UsageError({ message: `${file}: ${(cause as Error).message}` }),
  })

const generatedCases = Effect.fnUntraced(function* ({ tasks, tokens, prompts, seed, haystack }: AccuracySettings) {
  const make = yield* promptMaker(yield* readHaystack(haystack))
  const numbers = Array.from({ length: prompts }, (_, number) => number)
  const wanted = tokens.flatMap((length) =>
    numbers.flatMap((number) => tasks.map((kind) => ({ kind, length, number }))),
  )
  return yield* Effect.forEach(
    wanted,
    Effect.fnUntraced(function* ({ kind, length, number }) {
      const { task, prompt } = yield* make(kind, length, seed, number)
      return {
        id: `${kind}-${length}-${number}`,
        task: kind,
        prompt: prompt.tokens,
        depth: task.statements.length === 1 ? prompt.depth : null,
        isRight: (answer) => answer === task.answer,
      } satisfies Case
    }),
  )
})
