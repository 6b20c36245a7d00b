/**
 * Accuracy of a needle model dense and with its drop schedule, through the engine, on this machine's processors:
 *
 *     node_modules/.bin/node --conditions=source test/accuracy/accuracy.ts [--tokens 8192] [--prompts 6] [--model DIR]
 *
 * `--prompts` are per task. Answers are generated greedily and count when they are exactly right. Prints one line a prompt
 * and a table at the end; takes some ten seconds a prompt at 8,192 tokens.
 */
import { readFileSync } from "node:fs"
import { parseArgs } from "node:util"
import { Engine } from "@uniprefill/engine/Engine"
import { greedy } from "@uniprefill/executor/contract/Executor"
import { uniformNumbers } from "@uniprefill/executor/reference/ReferenceModel"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect, Stream } from "effect"
import * as EngineLive from "uniprefill/model/EngineLive"
import { executorLive } from "uniprefill/model/ExecutorLive"
import { embeddedModel, modelOptions, type ModelSettings } from "uniprefill/options/ModelOptions"
import { lexiconOf, makePrompt, makeTask, taskKinds } from "./RetrievalTasks.ts"

const { values } = parseArgs({
  options: {
    tokens: { type: "string", default: "8192" },
    prompts: { type: "string", default: "6" },
    model: { type: "string" },
    seed: { type: "string", default: "1" },
  },
})
const distractors = 12
const haystack = readFileSync(`${embeddedModel()}/demo/haystack.txt`, "utf8")
const defaults = Object.fromEntries(
  Object.entries(modelOptions).map(([name, { defaultValue }]) => [name, defaultValue]),
)
const settings = { ...defaults, model: values.model } as ModelSettings

interface Answer {
  readonly text: string
  readonly kept: ReadonlyArray<number>
  readonly ttftMicros: number
}

const ask = (prompt: Int32Array, drop: boolean, requestId: string) =>
  Effect.gen(function* () {
    const engine = yield* Engine
    const [events] = yield* engine.generate({
      requestId,
      prompt,
      maxTokens: 32,
      sampling: { ...greedy, stopTokenIds: engine.model.spec.eosTokenIds },
      stop: [],
      includeStop: false,
      skipSpecialTokens: true,
      drop,
      minP: undefined,
      priority: 0,
    })
    let text = ""
    let kept: ReadonlyArray<number> = []
    let ttftMicros = 0
    yield* Stream.runForEach(events, (event) =>
      Effect.sync(() => {
        if (event._tag === "Output") text += event.text
        else if (event._tag === "Finished") {
          kept = event.kept
          ttftMicros = event.times.firstTokenMicros - event.times.arrivedMicros
        }
      }),
    )
    return { text: text.trim(), kept, ttftMicros } satisfies Answer
  }).pipe(Effect.scoped)

const mean = (list: ReadonlyArray<number>): number => list.reduce((sum, value) => sum + value, 0) / list.length

const program = Effect.gen(function* () {
  const tokenizer = yield* Tokenizer
  const lexicon = lexiconOf(haystack)
  const text = yield* tokenizer.encode(haystack, { addSpecialTokens: false })
  const random = uniformNumbers(Number(values.seed))
  const results: Array<{
    readonly kind: string
    readonly right: readonly [boolean, boolean]
    readonly dropped: Answer
  }> = []
  for (let number = 0; number < Number(values.prompts); number++) {
    for (const kind of taskKinds) {
      const task = makeTask(kind, lexicon, random)
      const others = Array.from({ length: distractors }, () =>
        makeTask(taskKinds[Math.floor(random() * taskKinds.length)]!, lexicon, random),
      )
      const pieces = new Map<string, Int32Array>()
      const statements = [task, ...others].flatMap((one) => one.statements)
      for (const piece of [...statements, `\nQuestion: ${task.question}\nAnswer:`]) {
        pieces.set(piece, yield* tokenizer.encode(piece, { addSpecialTokens: false }))
      }
      const prompt = makePrompt(task, others, text, Number(values.tokens), (piece) => pieces.get(piece)!, random)
      const dense = yield* ask(prompt, false, `${kind}-${number}-dense`)
      const dropped = yield* ask(prompt, true, `${kind}-${number}-dropped`)
      const right = [dense.text === task.answer, dropped.text === task.answer] as const
      results.push({ kind, right, dropped })
      console.log(
        [
          kind,
          task.answer,
          `dense: ${dense.text}`,
          `dropped: ${dropped.text}`,
          dropped.kept.map((share) => share.toFixed(3)).join(" "),
        ].join(" | "),
      )
    }
  }
  const { executor } = (yield* Engine).model
  console.log(
    `\n${executor.device}, ${values.tokens} tokens, ${values.prompts} prompts a task, ${distractors} distractors\n`,
  )
  console.log("task | dense | dropped\n--- | --- | ---")
  for (const kind of [...taskKinds, "all"]) {
    const own = results.filter((result) => kind === "all" || result.kind === kind)
    const score = (side: 0 | 1) => `${own.filter(({ right }) => right[side]).length} of ${own.length}`
    console.log(`${kind} | ${score(0)} | ${score(1)}`)
  }
  const shares = results[0]!.dropped.kept.map((_, segment) =>
    mean(results.map(({ dropped }) => dropped.kept[segment]!)),
  )
  console.log(`\nrows kept, mean per segment: ${shares.map((share) => share.toFixed(3)).join(" ")}`)
})

await Effect.runPromise(Effect.scoped(Effect.provide(program, EngineLive.layer(settings, [], executorLive))))
