import { readFile } from "node:fs/promises"
import { Engine } from "@uniprefill/engine/Engine"
import { greedy } from "@uniprefill/executor/contract/Executor"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect, Stream } from "effect"
import { Random } from "@uniprefill/units/Random"
import { UsageError } from "../cli/UsageError.ts"
import { embeddedModel } from "../options/ModelOptions.ts"
import type { Path } from "./Divergence.ts"
import {
  lexiconOf,
  makePrompt,
  makeTask,
  piecesOf,
  type Prompt,
  type Task,
  type TaskKind,
  trainedKinds,
} from "./Tasks.ts"

/** Statements about other things in every prompt. */
export const distractors = 12

export interface Answer extends Path {
  readonly text: string
  /** Rows kept, a share of the prompt for each segment. */
  readonly kept: ReadonlyArray<number>
  /** Of each selection. */
  readonly bitmaps: ReadonlyArray<Uint32Array>
  readonly ttftMicros: number
  /** Prompt tokens that another request had computed. */
  readonly cachedTokens: number
}

export interface Question {
  readonly requestId: string
  readonly prompt: Int32Array
  /** False: dense. */
  readonly drop: boolean
  /** Raises p of every drop layer to at least this; 1 keeps every block, and is equal to dense on the CPU to the bit. */
  readonly minP?: number | undefined
  /** p of each drop layer in place of the schedule's. */
  readonly p?: ReadonlyArray<number> | undefined
  /** The answer ends with its line, or here. */
  readonly maxTokens: number
  /** How many of the most likely tokens to report at each place; −1 reports nothing. */
  readonly logprobs?: number | undefined
}

/** Answers a prompt greedily. */
export const ask = ({ requestId, prompt, drop, minP, p, maxTokens, logprobs = -1 }: Question) =>
  Effect.gen(function* () {
    const engine = yield* Engine
    const [events] = yield* engine.generate({
      requestId,
      prompt,
      maxTokens,
      sampling: { ...greedy, stopTokenIds: engine.model.spec.eosTokenIds, logprobs },
      stop: ["\n"],
      includeStop: false,
      skipSpecialTokens: true,
      drop,
      minP,
      p,
      priority: 0,
    })
    let text = ""
    const tokens: Array<number> = []
    const likely: Array<Path["likely"][number]> = []
    let ending = {
      kept: [] as ReadonlyArray<number>,
      bitmaps: [] as ReadonlyArray<Uint32Array>,
      ttftMicros: 0,
      cachedTokens: 0,
    }
    yield* Stream.runForEach(events, (event) =>
      Effect.sync(() => {
        if (event._tag === "Output") {
          text += event.text
          tokens.push(...event.tokens)
          // The sampled token comes first and again among the most likely ones.
          likely.push(...event.logprobs.map((place) => place.slice(1)))
        } else {
          const { kept, bitmaps, times, cachedTokens } = event
          ending = { kept, bitmaps, cachedTokens, ttftMicros: times.firstTokenMicros - times.arrivedMicros }
        }
      }),
    )
    return { text: text.trim(), tokens, likely, ...ending } satisfies Answer
  }).pipe(Effect.scoped)

/** A text to hide things in: a file, or the one that comes with the server. */
export const readHaystack = (file: string | undefined): Effect.Effect<string, UsageError> =>
  Effect.tryPromise({
    try: () => readFile(file ?? `${embeddedModel()}/demo/haystack.txt`, "utf8"),
    catch: (cause) => new UsageError({ message: `--haystack ${file}: ${(cause as Error).message}` }),
  })

/** Numbers in [0, 1) of one prompt, whatever other prompts are made. */
const randomFor = (...of: ReadonlyArray<string | number>): (() => number) => {
  const random = new Random(0, of.join("/"))
  return () => random.unit()
}

export interface AskedTask {
  readonly task: Task
  readonly prompt: Prompt
}

/**
 * Makes prompts over a text: the same for the same kind, length, seed and number. Fails with UsageError where the text has too few words, or a prompt
 * is too short for what it is to hold.
 */
export const promptMaker = Effect.fnUntraced(function* (haystack: string) {
  const tokenizer = yield* Tokenizer
  const encode = (text: string) => tokenizer.encode(text, { addSpecialTokens: false })
  const lexicon = lexiconOf(haystack)
  if (lexicon.words.length < 20 || lexicon.names.length < 4) {
    const message = "--haystack: a text with at least 20 different words and 4 names is needed"
    return yield* new UsageError({ message })
  }
  const once = yield* encode(haystack)
  return Effect.fnUntraced(function* (kind: TaskKind, length: number, seed: number, number: number) {
    const random = randomFor(kind, length, seed, number)
    const task = makeTask(kind, lexicon, random)
    const others = Array.from({ length: distractors }, () =>
      makeTask(trainedKinds[Math.floor(random() * trainedKinds.length)]!, lexicon, random),
    )
    const pieces = new Map<string, Int32Array>()
    for (const piece of piecesOf(task, others)) pieces.set(piece, yield* encode(piece))
    // The text again and again, where one is too short.
    const text = Int32Array.from({ length: Math.max(once.length, length) }, (_, i) => once[i % once.length]!)
    const prompt = yield* Effect.try({
      try: () => makePrompt(task, others, text, length, (piece) => pieces.get(piece)!, random),
      catch: () => new UsageError({ message: `--tokens: ${length} are too few for a prompt of the task ${kind}` }),
    })
    return { task, prompt } satisfies AskedTask
  })
})
