/**
 * Accuracy of a needle model dense and with its drop schedule, through the engine, on this machine's processors:
 *
 *     node_modules/.bin/node --conditions=source test/accuracy/accuracy.ts [--tokens 8192] [--prompts 6] [--model DIR] [--drop-schedule FILE]
 *
 * `--prompts` are per task. Answers are generated greedily and count when they are exactly right. Prints one line a prompt
 * and a table at the end; takes some ten seconds a prompt at 8,192 tokens.
 */
import { parseArgs } from "node:util"
import { Engine } from "@uniprefill/engine/Engine"
import { Effect } from "effect"
import * as EngineLive from "uniprefill/model/EngineLive"
import { executorLive } from "uniprefill/model/ExecutorLive"
import { type Answer, ask, distractors, promptMaker, settingsOf } from "./Asking.ts"
import { taskKinds } from "./RetrievalTasks.ts"

const { values } = parseArgs({
  options: {
    tokens: { type: "string", default: "8192" },
    prompts: { type: "string", default: "6" },
    model: { type: "string" },
    "drop-schedule": { type: "string" },
    seed: { type: "string", default: "1" },
  },
})
const settings = settingsOf(values.model, values["drop-schedule"])

const mean = (list: ReadonlyArray<number>): number => list.reduce((sum, value) => sum + value, 0) / list.length

const program = Effect.gen(function* () {
  const make = yield* promptMaker(Number(values.seed))
  const results: Array<{
    readonly kind: string
    readonly right: readonly [boolean, boolean]
    readonly dropped: Answer
  }> = []
  for (let number = 0; number < Number(values.prompts); number++) {
    for (const kind of taskKinds) {
      const { task, prompt } = yield* make(kind, Number(values.tokens))
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
