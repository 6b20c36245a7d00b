/**
 * What this engine answers, dense and with dropping, for others to be compared with: native/python/tests/test_needles.py.
 *
 *     node_modules/.bin/node --conditions=source test/accuracy/engineAnswers.ts --model DIR --drop 7:0.95,11:0.95 --out FILE \\
 *       [--tokens 4096] [--prompts 20] [--seed 1]
 *
 * The file is JSON: the schedule, and for each prompt its token ids, the greedy answer's token ids dense and dropped, whether each is
 * right, and the rows that each selection left.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { fingerprintOf } from "@uniprefill/executor-native/NativeExecutor"
import { Engine } from "@uniprefill/engine/Engine"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import { NodeServices } from "@effect/platform-node"
import { Effect } from "effect"
import * as EngineLive from "uniprefill/model/EngineLive"
import { executorLive } from "uniprefill/model/ExecutorLive"
import { modelOptions, type ModelSettings } from "uniprefill/options/ModelOptions"
import { ask, promptMaker, readHaystack } from "uniprefill/quality/Asking"
import { trainedKinds } from "uniprefill/quality/Tasks"

const { values } = parseArgs({
  options: {
    model: { type: "string" },
    drop: { type: "string" },
    out: { type: "string" },
    tokens: { type: "string", default: "4096" },
    prompts: { type: "string", default: "20" },
    seed: { type: "string", default: "1" },
  },
})
const { model, drop, out } = values
if (model === undefined || drop === undefined || out === undefined) {
  console.error("engineAnswers: --model, --drop and --out are needed, such as --model DIR --drop 7:0.95 --out FILE")
  process.exit(2)
}

const folder = mkdtempSync(join(tmpdir(), "answers-"))
const file = join(folder, "uniprefill.json")

const program = Effect.gen(function* () {
  const read = yield* loadModelDirectory(model, { dropSchedule: "off" }).pipe(Effect.provide(NodeServices.layer))
  const schedule = {
    format: "uniprefill-schedule",
    version: 1,
    model: yield* fingerprintOf(read),
    dropLayers: drop.split(",").map((entry) => {
      const [layer, p] = entry.split(":").map(Number)
      return { layer, p }
    }),
  }
  writeFileSync(file, JSON.stringify(schedule))
  /** The server's own defaults. */
  const defaults = Object.fromEntries(
    Object.entries(modelOptions).map(([name, { defaultValue }]) => [name, defaultValue]),
  )
  const settings = { ...defaults, model, "drop-schedule": file, "prefix-caching": "off" } as ModelSettings
  const answers = yield* answersOf(schedule).pipe(Effect.provide(EngineLive.layer(settings, [], executorLive)))
  writeFileSync(out, `${JSON.stringify(answers)}\n`)
})

const answersOf = Effect.fnUntraced(function* (schedule: object) {
  const make = yield* promptMaker(yield* readHaystack(undefined))
  const { executor } = (yield* Engine).model
  const prompts = []
  for (let number = 0; number < Number(values.prompts); number++) {
    const kind = trainedKinds[number % trainedKinds.length]!
    const { task, prompt } = yield* make(kind, Number(values.tokens), Number(values.seed), number)
    const { tokens } = prompt
    const answer = Effect.fnUntraced(function* (name: string, drops: boolean) {
      const told = yield* ask({ requestId: `${name}-${number}`, prompt: tokens, drop: drops, maxTokens: 32 })
      return {
        tokens: told.tokens,
        right: told.text === task.answer,
        kept: told.kept.map((share) => Math.round(share * tokens.length)),
      }
    })
    const [dense, dropped] = [yield* answer("dense", false), yield* answer("dropped", true)]
    console.log(
      `${number + 1} ${kind}: dense ${dense.right}, dropped ${dropped.right}, kept ${dropped.kept.join(", ")}`,
    )
    prompts.push({ kind, tokens: [...tokens], dense, dropped })
  }
  return { device: executor.device, schedule, prompts }
})

try {
  await Effect.runPromise(Effect.scoped(program))
} finally {
  rmSync(folder, { recursive: true })
}
