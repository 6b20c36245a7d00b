import { readFileSync } from "node:fs"
import { Engine } from "@uniprefill/engine/Engine"
import { greedy } from "@uniprefill/executor/contract/Executor"
import { uniformNumbers } from "@uniprefill/executor/reference/ReferenceModel"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect, Stream } from "effect"
import { embeddedModel, modelOptions, type ModelSettings } from "uniprefill/options/ModelOptions"
import { lexiconOf, makePrompt, makeTask, type TaskKind, taskKinds } from "./RetrievalTasks.ts"

/** Statements about other things in every prompt. */
export const distractors = 12

/** The server's own defaults, for a model directory; undefined for the model that comes with the server. */
export const settingsOf = (model: string | undefined, dropSchedule: string | undefined): ModelSettings => {
  const defaults = Object.fromEntries(
    Object.entries(modelOptions).map(([name, { defaultValue }]) => [name, defaultValue]),
  )
  return { ...defaults, model, "drop-schedule": dropSchedule ?? defaults["drop-schedule"] } as ModelSettings
}

export interface Answer {
  readonly text: string
  /** Rows kept, a share of the prompt for each segment. */
  readonly kept: ReadonlyArray<number>
  /** Of each selection. */
  readonly bitmaps: ReadonlyArray<Uint32Array>
  readonly ttftMicros: number
  /** The most likely first tokens with their log-probabilities, where asked for. */
  readonly first: ReadonlyArray<readonly [token: number, logprob: number]>
}

/** Answers a prompt greedily; reports the `logprobs` most likely first tokens, −1 for none. */
export const ask = (prompt: Int32Array, drop: boolean, requestId: string, logprobs = -1) =>
  Effect.gen(function* () {
    const engine = yield* Engine
    const [events] = yield* engine.generate({
      requestId,
      prompt,
      maxTokens: 32,
      sampling: { ...greedy, stopTokenIds: engine.model.spec.eosTokenIds, logprobs },
      stop: ["\n"],
      includeStop: false,
      skipSpecialTokens: true,
      drop,
      minP: undefined,
      priority: 0,
    })
    let text = ""
    const first: Array<Answer["first"]> = []
    let ending: Omit<Answer, "text" | "first"> = { kept: [], bitmaps: [], ttftMicros: 0 }
    yield* Stream.runForEach(events, (event) =>
      Effect.sync(() => {
        if (event._tag === "Output") {
          text += event.text
          // The sampled token comes first and again among the most likely ones.
          if (first.length === 0 && event.logprobs.length > 0) first.push(event.logprobs[0]!.slice(1))
        } else if (event._tag === "Finished") {
          const { firstTokenMicros, arrivedMicros } = event.times
          ending = { kept: event.kept, bitmaps: event.bitmaps, ttftMicros: firstTokenMicros - arrivedMicros }
        }
      }),
    )
    return { text: text.trim(), first: first[0] ?? [], ...ending } satisfies Answer
  }).pipe(Effect.scoped)

/** Makes prompts of the kinds that the needle models were trained for, over the text that comes with the server. */
export const promptMaker = (seed: number) =>
  Effect.gen(function* () {
    const tokenizer = yield* Tokenizer
    const haystack = readFileSync(`${embeddedModel()}/demo/haystack.txt`, "utf8")
    const lexicon = lexiconOf(haystack)
    const once = yield* tokenizer.encode(haystack, { addSpecialTokens: false })
    const random = uniformNumbers(seed)
    return (kind: TaskKind, tokens: number) =>
      Effect.gen(function* () {
        const task = makeTask(kind, lexicon, random)
        const others = Array.from({ length: distractors }, () =>
          makeTask(taskKinds[Math.floor(random() * taskKinds.length)]!, lexicon, random),
        )
        const pieces = new Map<string, Int32Array>()
        const statements = [task, ...others].flatMap((one) => one.statements)
        for (const piece of [...statements, `\nQuestion: ${task.question}\nAnswer:`]) {
          pieces.set(piece, yield* tokenizer.encode(piece, { addSpecialTokens: false }))
        }
        // The text again and again, where one is too short.
        const length = Math.max(once.length, tokens)
        const text = Int32Array.from({ length }, (_, i) => once[i % once.length]!)
        return { task, prompt: makePrompt(task, others, text, tokens, (piece) => pieces.get(piece)!, random) }
      })
  })
