import { readFile } from "node:fs/promises"
import { Effect, Result, Schema } from "effect"
import { UsageError } from "../cli/UsageError.ts"
import type { BenchSettings } from "./BenchOptions.ts"
import { Random } from "@uniprefill/units/Random"

/** One request to be sent. */
export interface BenchRequest {
  readonly prompt: string | ReadonlyArray<number>
  /** As far as it is known before the server says. */
  readonly promptTokens: number
  readonly outputTokens: number
  /** When it is due, in seconds from the start; undefined: as --request-rate says. */
  readonly dueSeconds: number | undefined
}

/** The requests that the settings ask for. Fails with a {@link UsageError} naming the file. */
export const makeRequests = (settings: BenchSettings): Effect.Effect<ReadonlyArray<BenchRequest>, UsageError> => {
  switch (settings["dataset-name"]) {
    case "random":
      return Effect.succeed(randomRequests(settings))
    case "sharegpt":
      return sharegptRequests(settings)
    case "timed-trace":
      return traceRequests(settings)
  }
}

const isChat = ({ backend }: BenchSettings) => backend === "openai-chat"

const words = (
  "time year people way day man thing woman life child world school state family student group country problem hand " +
  "part place case week company system program question work government number night point home water room mother area " +
  "money story fact month lot right study book eye job word business issue side kind head house service friend"
).split(" ")

/** Tokens of one text: ids for completions, about as many words for chats. */
const draw = (random: Random, count: number, settings: BenchSettings): ReadonlyArray<number | string> =>
  Array.from({ length: count }, () =>
    isChat(settings) ? words[random.below(words.length)]! : random.between(3, settings["random-vocab-size"] - 1),
  )

const promptOf = (tokens: ReadonlyArray<number | string>, settings: BenchSettings): BenchRequest["prompt"] =>
  isChat(settings) ? tokens.join(" ") : (tokens as ReadonlyArray<number>)

const randomRequests = (settings: BenchSettings): ReadonlyArray<BenchRequest> => {
  const random = new Random(settings.seed, "requests")
  const ratio = settings["random-range-ratio"]
  const around = (length: number) =>
    Math.max(1, random.between(Math.floor(length * (1 - ratio)), Math.floor(length * (1 + ratio))))
  const prefix = draw(random, settings["random-prefix-len"], settings)
  return Array.from({ length: settings["num-prompts"] }, () => {
    const tokens = [...prefix, ...draw(random, around(settings["random-input-len"]), settings)]
    const outputTokens = around(settings["random-output-len"])
    return { prompt: promptOf(tokens, settings), promptTokens: tokens.length, outputTokens, dueSeconds: undefined }
  })
}

const Conversation = Schema.Struct({
  conversations: Schema.Array(Schema.Struct({ from: Schema.String, value: Schema.String })),
})

const Sharegpt = Schema.Array(Conversation)

const TraceLine = Schema.Struct({
  /** Milliseconds. */
  timestamp: Schema.Finite,
  input_length: Schema.Int.check(Schema.isGreaterThan(0)),
  output_length: Schema.Int.check(Schema.isGreaterThan(0)),
  /** Of blocks of 512 tokens; equal ids are equal beginnings. */
  hash_ids: Schema.optionalKey(Schema.Array(Schema.Int)),
})

const read = (settings: BenchSettings): Effect.Effect<readonly [file: string, text: string], UsageError> => {
  const file = settings["dataset-path"]
  if (file === undefined) {
    return Effect.fail(new UsageError({ message: `--dataset-name ${settings["dataset-name"]} needs --dataset-path` }))
  }
  return Effect.tryPromise({
    try: async () => [file, await readFile(file, "utf8")] as const,
    catch: (cause) => new UsageError({ message: `--dataset-path ${file}: ${(cause as Error).message}` }),
  })
}

const parse = <A>(file: string, place: string, text: string, schema: Schema.Decoder<A>): Effect.Effect<A, UsageError> =>
  Effect.suspend(() => {
    const refuse = (detail: string) => new UsageError({ message: `--dataset-path ${file}: ${place}${detail}` })
    let json: unknown
    try {
      json = JSON.parse(text)
    } catch (cause) {
      return Effect.fail(refuse((cause as Error).message))
    }
    const decoded = Schema.decodeUnknownResult(schema)(json)
    return Result.isFailure(decoded)
      ? Effect.fail(refuse(decoded.failure.message.replaceAll("\n", " ")))
      : Effect.succeed(decoded.success)
  })

/** Characters of a usual token, where no tokenizer is at hand. */
const charactersPerToken = 4

const sharegptRequests = Effect.fnUntraced(function* (settings: BenchSettings) {
  const [file, text] = yield* read(settings)
  const conversations = yield* parse(file, "", text, Sharegpt)
  const pairs = conversations.flatMap(({ conversations: turns }) => {
    const [first, second] = turns
    return first === undefined || second === undefined || first.value === ""
      ? []
      : [[first.value, second.value] as const]
  })
  if (pairs.length === 0) {
    return yield* new UsageError({ message: `--dataset-path ${file}: no conversation has two turns` })
  }
  const random = new Random(settings.seed, "requests")
  return Array.from({ length: settings["num-prompts"] }, (): BenchRequest => {
    const [prompt, answer] = pairs[random.below(pairs.length)]!
    return {
      prompt,
      promptTokens: Math.ceil(prompt.length / charactersPerToken),
      outputTokens: settings["sharegpt-output-len"] ?? Math.max(1, Math.ceil(answer.length / charactersPerToken)),
      dueSeconds: undefined,
    }
  })
})

const traceBlock = 512

const traceRequests = Effect.fnUntraced(function* (settings: BenchSettings) {
  const [file, text] = yield* read(settings)
  const lines = text.split("\n").filter((line) => line.trim() !== "")
  const rows = yield* Effect.forEach(lines.slice(0, settings["num-prompts"]), (line, i) =>
    parse(file, `line ${i + 1}: `, line, TraceLine),
  )
  const [first] = rows
  if (first === undefined) return yield* new UsageError({ message: `--dataset-path ${file}: it has no lines` })
  const scale = settings["trace-time-scale"] / 1000
  return rows.map((row, r): BenchRequest => {
    const tokens: Array<number | string> = []
    for (let block = 0; tokens.length < row.input_length; block++) {
      // Equal ids give equal tokens; a block without one is nobody else's.
      const id = row.hash_ids?.[block] ?? -(r * 4096 + block + 1)
      const random = new Random(settings.seed, `block ${id}`)
      tokens.push(...draw(random, Math.min(traceBlock, row.input_length - tokens.length), settings))
    }
    return {
      prompt: promptOf(tokens, settings),
      promptTokens: row.input_length,
      outputTokens: row.output_length,
      dueSeconds: (row.timestamp - first.timestamp) * scale,
    }
  })
})

/** When each request is sent, in seconds from the start: the gaps are gamma-distributed around 1 / rate. */
export const sendTimes = (
  requests: ReadonlyArray<BenchRequest>,
  { "request-rate": rate, burstiness, seed }: Pick<BenchSettings, "request-rate" | "burstiness" | "seed">,
): ReadonlyArray<number> => {
  const random = new Random(seed, "arrivals")
  let at = 0
  return requests.map(({ dueSeconds }, i) => {
    if (dueSeconds !== undefined) return dueSeconds
    if (i > 0 && Number.isFinite(rate)) at += random.gamma(burstiness) / (rate * burstiness)
    return at
  })
}
