import { readFile } from "node:fs/promises"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect, Schema } from "effect"
import { UsageError } from "../cli/UsageError.ts"
import type { Case } from "./AccuracyRun.ts"

const Line = Schema.Struct({
  prompt: Schema.NonEmptyString,
  answer: Schema.NonEmptyString,
  task: Schema.optionalKey(Schema.NonEmptyString),
})

/** Prompts of a file, a JSON object a line. Fails with UsageError that names the file and the line. */
export const readCases = Effect.fnUntraced(function* (file: string) {
  const tokenizer = yield* Tokenizer
  const wrong = (detail: string) => new UsageError({ message: `--cases ${file}${detail}` })
  const text = yield* Effect.tryPromise({
    try: () => readFile(file, "utf8"),
    catch: (cause) => wrong(`: ${(cause as Error).message}`),
  })
  const lines = text.split("\n").flatMap((line, i) => (line.trim() === "" ? [] : [{ line, number: i + 1 }]))
  if (lines.length === 0) return yield* wrong(": no line holds a prompt")
  return yield* Effect.forEach(
    lines,
    Effect.fnUntraced(function* ({ line, number }) {
      const {
        prompt,
        answer,
        task = "cases",
      } = yield* Effect.try({
        try: () => Schema.decodeUnknownSync(Line)(JSON.parse(line)),
        catch: (cause) => wrong(`:${number}: ${(cause as Error).message.split("\n")[0]}`),
      })
      return {
        id: `line-${number}`,
        task,
        prompt: yield* tokenizer.encode(prompt, { addSpecialTokens: true }),
        depth: null,
        isRight: (given) => given.includes(answer),
      } satisfies Case
    }),
  )
})
