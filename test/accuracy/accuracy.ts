/**
 * Accuracy of a needle model dense and with its drop schedule, through the engine:
 *
 *     node_modules/.bin/node --conditions=source test/accuracy/accuracy.ts [--executor auto|cuda|cpu] [--tokens 8192]
 *         [--prompts 6] [--model DIR] [--drop-schedule FILE] [--at-once 1] [--quiet] [--json FILE]
 *
 * `--prompts` are per task, and every prompt is answered both ways; `--at-once` prompts are in work at a time. Answers are generated
 * greedily, end with their line, and count when they are exactly right. Prints one line a prompt and a table at the end, with 95%
 * intervals (Wilson's); takes some ten seconds a prompt at 8,192 tokens on two cores.
 */
import { writeFileSync } from "node:fs"
import { basename } from "node:path"
import { parseArgs } from "node:util"
import { Engine } from "@uniprefill/engine/Engine"
import { Effect } from "effect"
import * as EngineLive from "uniprefill/model/EngineLive"
import { executorLive } from "uniprefill/model/ExecutorLive"
import { embeddedModel, type ModelSettings } from "uniprefill/options/ModelOptions"
import { ask, distractors, promptMaker, settingsOf } from "./Asking.ts"
import { taskKinds } from "./RetrievalTasks.ts"

const { values } = parseArgs({
  options: {
    tokens: { type: "string", default: "8192" },
    prompts: { type: "string", default: "6" },
    model: { type: "string" },
    seed: { type: "string", default: "1" },
    executor: { type: "string", default: "auto" },
    "drop-schedule": { type: "string" },
    "at-once": { type: "string", default: "1" },
    quiet: { type: "boolean", default: false },
    json: { type: "string" },
  },
})
// The same prompt is answered twice, and both times from its first token.
const settings = {
  ...settingsOf(values.model, values["drop-schedule"]),
  executor: values.executor,
  "prefix-caching": "off",
} as ModelSettings

const mean = (list: ReadonlyArray<number>): number => list.reduce((sum, value) => sum + value, 0) / list.length

const median = (list: ReadonlyArray<number>): number => list.toSorted((a, b) => a - b)[list.length >> 1]!

/** Wilson's 95% interval of a share. */
const interval = (right: number, of: number): readonly [number, number] => {
  const z = 1.96
  const share = right / of
  const middle = share + (z * z) / (2 * of)
  const half = z * Math.sqrt((share * (1 - share)) / of + (z * z) / (4 * of * of))
  const scale = 1 + (z * z) / of
  return [Math.max(0, (middle - half) / scale), Math.min(1, (middle + half) / scale)]
}

interface Case {
  readonly id: string
  readonly kind: string
  readonly answer: string
  readonly prompt: Int32Array
}

const makeCases = Effect.gen(function* () {
  const make = yield* promptMaker(Number(values.seed))
  const cases: Array<Case> = []
  for (let number = 0; number < Number(values.prompts); number++) {
    for (const kind of taskKinds) {
      const { task, prompt } = yield* make(kind, Number(values.tokens))
      cases.push({ id: `${kind}-${number}`, kind, answer: task.answer, prompt })
    }
  }
  return cases
})

const program = Effect.gen(function* () {
  const cases = yield* makeCases
  const results = yield* Effect.forEach(
    cases,
    Effect.fnUntraced(function* ({ id, kind, answer, prompt }) {
      const dense = yield* ask(prompt, false, `${id}-dense`)
      const dropped = yield* ask(prompt, true, `${id}-dropped`)
      const right = [dense.text === answer, dropped.text === answer] as const
      const shares = dropped.kept.map((share) => share.toFixed(3)).join(" ")
      if (!values.quiet) {
        console.log([kind, answer, `dense: ${dense.text}`, `dropped: ${dropped.text}`, shares].join(" | "))
      }
      return { kind, right, dense, dropped }
    }),
    { concurrency: Number(values["at-once"]) },
  )
  const { executor } = (yield* Engine).model
  const name = basename(settings.model ?? embeddedModel())
  console.log(`\n${name} on ${executor.device}, ${values.tokens} tokens, ${distractors} distractors\n`)
  console.log("task | dense | dropped\n--- | --- | ---")
  const scoreOf = (kind: string, side: 0 | 1) => {
    const own = results.filter((result) => kind === "all" || result.kind === kind)
    const right = own.filter((result) => result.right[side]).length
    return { right, of: own.length, interval: interval(right, own.length) }
  }
  for (const kind of [...taskKinds, "all"]) {
    const cells = ([0, 1] as const).map((side) => {
      const { right, of, interval: ends } = scoreOf(kind, side)
      return `${right} of ${of} (${ends.map((end) => end.toFixed(2)).join("–")})`
    })
    console.log([kind, ...cells].join(" | "))
  }
  const shares = results[0]!.dropped.kept.map((_, segment) =>
    mean(results.map(({ dropped }) => dropped.kept[segment]!)),
  )
  console.log(`\nrows kept, mean per segment: ${shares.map((share) => share.toFixed(3)).join(" ")}`)
  const ttft = (["dense", "dropped"] as const).map((side) => median(results.map((one) => one[side].ttftMicros)) / 1000)
  console.log(`median time to the first token, ms: dense ${ttft[0]!.toFixed(1)}, dropped ${ttft[1]!.toFixed(1)}`)
  const differ = results.filter(({ dense, dropped }) => dense.text !== dropped.text).length
  console.log(`${differ} of ${results.length} answers differ between the two`)
  if (values.json === undefined) return
  const { device } = executor
  const summary = {
    model: name,
    device,
    tokens: Number(values.tokens),
    dense: scoreOf("all", 0),
    dropped: scoreOf("all", 1),
    shares,
    ttft,
  }
  writeFileSync(values.json, `${JSON.stringify(summary)}\n`)
})

await Effect.runPromise(Effect.scoped(Effect.provide(program, EngineLive.layer(settings, [], executorLive))))
