import { randomUUID } from "node:crypto"
import { text as readAll } from "node:stream/consumers"
import { Engine, type GenerateEvent } from "@uniprefill/engine/Engine"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect, Layer, Option, Stream } from "effect"
import * as EngineLive from "../model/EngineLive.ts"
import type { generateOptions } from "../options/GenerateOptions.ts"
import type { OptionValues } from "../options/Options.ts"
import { showing } from "./Progress.ts"
import { samplingOf } from "../answers/Sampling.ts"
import { ServedModel } from "../model/ServedModel.ts"
import { UsageError } from "./UsageError.ts"

export type GenerateSettings = OptionValues<typeof generateOptions>

/** Answers one prompt: the text to stdout as it comes, and how it went to stderr where that is a terminal. */
export const generate = (
  settings: GenerateSettings,
  argument: Option.Option<string>,
  executorOf: EngineLive.ExecutorOf,
) =>
  Effect.gen(function* () {
    const prompt = yield* promptOf(argument)
    const services = yield* showing("loading the model …", Layer.build(EngineLive.layer(settings, [], executorOf)))
    yield* Effect.provideContext(answer(settings, prompt), services)
  }).pipe(Effect.scoped)

/** The argument, else all of stdin without its last line break. */
const promptOf = (argument: Option.Option<string>): Effect.Effect<string, UsageError> => {
  const checked = (prompt: string) =>
    prompt === "" ? Effect.fail(new UsageError({ message: "the prompt is empty" })) : Effect.succeed(prompt)
  if (Option.isSome(argument)) return checked(argument.value)
  if (process.stdin.isTTY) {
    const message = 'give a prompt, as in `uniprefill generate "Once upon a time"`, or pipe a text in'
    return Effect.fail(new UsageError({ message }))
  }
  return Effect.flatMap(
    Effect.promise(() => readAll(process.stdin)),
    (text) => checked(text.replace(/\r?\n$/, "")),
  )
}

const answer = Effect.fnUntraced(function* (settings: GenerateSettings, prompt: string) {
  const engine = yield* Engine
  const tokenizer = yield* Tokenizer
  const served = yield* ServedModel
  const { temperature, seed } = settings
  const sampling = yield* Effect.fromResult(
    samplingOf({ temperature: temperature ?? null, seed: seed ?? null }, -1, served),
  )
  const tokens = yield* tokenizer.encode(prompt, { addSpecialTokens: true })
  const room = served.maxModelLen - tokens.length
  if (room < 1) {
    const message = `this model takes at most ${served.maxModelLen} tokens, but the prompt has ${tokens.length}`
    return yield* new UsageError({ message })
  }
  const [events] = yield* engine.generate({
    requestId: randomUUID(),
    prompt: tokens,
    maxTokens: Math.min(settings["max-tokens"], room),
    sampling,
    stop: [],
    includeStop: false,
    skipSpecialTokens: true,
    drop: true,
    minP: undefined,
    priority: 0,
  })
  yield* Stream.runForEach(events, (event) =>
    Effect.sync(() => {
      if (event._tag === "Output") process.stdout.write(event.text)
      else if (event._tag === "Finished") {
        process.stdout.write("\n")
        if (process.stderr.isTTY) process.stderr.write(`${summaryOf(event)}\n`)
      }
    }),
  )
})

type Finished = Extract<GenerateEvent, { _tag: "Finished" }>

const summaryOf = ({ promptTokens, completionTokens, kept, times }: Finished): string => {
  const firstSeconds = (times.firstTokenMicros - times.arrivedMicros) / 1e6
  const decodeSeconds = (times.finishedMicros - times.firstTokenMicros) / 1e6
  const parts = [`${promptTokens} prompt tokens`, `first token after ${firstSeconds.toFixed(2)} s`]
  if (completionTokens > 1 && decodeSeconds > 0) {
    parts.push(`then ${((completionTokens - 1) / decodeSeconds).toFixed(1)} tokens/s`)
  }
  parts.push(kept.length > 1 ? `rows kept ${kept.map((ratio) => ratio.toFixed(2)).join(" → ")}` : "dense")
  return parts.join(", ")
}
