import { readFile } from "node:fs/promises"
import { text as readAll } from "node:stream/consumers"
import { basename } from "node:path"
import { Engine } from "@uniprefill/engine/Engine"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect, Layer } from "effect"
import { showing } from "../cli/Progress.ts"
import { UsageError } from "../cli/UsageError.ts"
import * as EngineLive from "../model/EngineLive.ts"
import type { inspectOptions } from "../options/InspectOptions.ts"
import { embeddedModel } from "../options/ModelOptions.ts"
import type { OptionValues } from "../options/Options.ts"
import { writeReport } from "./AccuracyCommand.ts"
import { inspect } from "./Inspection.ts"
import { drawInspection, inspectionHtml } from "./InspectionPicture.ts"

export type InspectSettings = OptionValues<typeof inspectOptions>

/** Shows which parts of a prompt a model's drop schedule keeps. */
export const inspectCommand = (settings: InspectSettings, json: boolean, executorOf: EngineLive.ExecutorOf) =>
  Effect.gen(function* () {
    const text = yield* promptOf(settings.prompt)
    const directory = settings.model ?? embeddedModel()
    const { schedule } = yield* loadModelDirectory(directory, { dropSchedule: settings["drop-schedule"] })
    if (schedule.dropLayers.length === 0) {
      const message = "this model has no drop schedule, so all of every prompt is kept; uniprefill calibrate makes one"
      return yield* new UsageError({ message })
    }
    const shared = { ...settings, "prefix-caching": "on" } as const
    const services = yield* showing("loading the model …", Layer.build(EngineLive.layer(shared, [], executorOf)))
    const found = yield* Effect.gen(function* () {
      const prompt = yield* (yield* Tokenizer).encode(text, { addSpecialTokens: true })
      const room = (yield* Engine).model.maxModelLen - settings["max-tokens"]
      if (prompt.length < schedule.minPromptTokens || prompt.length > room) {
        const message = `the prompt has ${prompt.length} tokens; below ${schedule.minPromptTokens} nothing is dropped, and this model takes ${room}`
        return yield* new UsageError({ message })
      }
      const asking = inspect(basename(directory), prompt, schedule, settings["max-tokens"])
      return yield* showing(`reading ${prompt.length} tokens, again and again …`, asking)
    }).pipe(Effect.provideContext(services))
    if (settings.html !== undefined) yield* writeReport(settings.html, inspectionHtml(found))
    const colour =
      (process.stdout as { readonly isTTY?: boolean }).isTTY === true && (process.env.NO_COLOR ?? "") === ""
    process.stdout.write(json ? `${JSON.stringify(found, null, 2)}\n` : drawInspection(found, { colour }))
  }).pipe(Effect.scoped)

/** The file, else standard input; without the line break that ends it. */
const promptOf = (file: string | undefined): Effect.Effect<string, UsageError> => {
  if (file === undefined && process.stdin.isTTY)
    return Effect.fail(new UsageError({ message: "name a file with --prompt, or pipe a text in" }))
  return Effect.tryPromise({
    try: async () => (file === undefined ? readAll(process.stdin) : readFile(file, "utf8")),
    catch: (cause) => new UsageError({ message: `--prompt ${file}: ${(cause as Error).message}` }),
  }).pipe(Effect.map((text) => text.replace(/\r?\n$/, "")))
}
