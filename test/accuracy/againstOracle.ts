/**
 * Compares what the engine keeps of a prompt, and the five most likely next tokens, with an independent implementation: a
 * program that takes a model directory and a file of token ids and prints `{"keptRows": [[…], …], "top": [[token, logprob], …]}`.
 *
 *     node_modules/.bin/node --conditions=source test/accuracy/againstOracle.ts --oracle "python3 oracle.py" \\
 *       --model DIR --drop 7:0.95,11:0.95 [--tokens 8192] [--prompts 3]
 *
 * Prints one line a prompt; fails where a block that one keeps and the other drops cannot be a matter of rounding, that is where
 * more than `--near` blocks of a selection differ, or where log-probabilities differ by more than `--tolerance`.
 */
import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { Engine } from "@uniprefill/engine/Engine"
import { keptIndices } from "@uniprefill/model/Selection"
import { Effect } from "effect"
import * as EngineLive from "uniprefill/model/EngineLive"
import { executorLive } from "uniprefill/model/ExecutorLive"
import { modelOptions, type ModelSettings } from "uniprefill/options/ModelOptions"
import { ask, promptMaker, readHaystack } from "uniprefill/quality/Asking"
import { trainedKinds } from "uniprefill/quality/Tasks"

const { values } = parseArgs({
  options: {
    oracle: { type: "string" },
    model: { type: "string" },
    drop: { type: "string", default: "" },
    tokens: { type: "string", default: "8192" },
    prompts: { type: "string", default: "3" },
    seed: { type: "string", default: "1" },
    near: { type: "string", default: "2" },
    tolerance: { type: "string", default: "0.06" },
  },
})
if (values.oracle === undefined || values.model === undefined) {
  console.error('againstOracle: --oracle and --model are needed, such as --oracle "python3 oracle.py" --model DIR')
  process.exit(2)
}
const { oracle, model, drop } = values
const shape = { block: 64, sink: 128, lastQ: 128 }
const folder = mkdtempSync(join(tmpdir(), "oracle-"))
const schedule = join(folder, "uniprefill.json")
const dropLayers = drop.split(",").map((entry) => entry.split(":").map(Number))
writeFileSync(
  schedule,
  JSON.stringify({
    format: "uniprefill-schedule",
    version: 1,
    dropLayers: dropLayers.map(([layer, p]) => ({ layer, p })),
    ...shape,
    rule: "exclusive",
  }),
)

interface Told {
  readonly keptRows: ReadonlyArray<ReadonlyArray<number>>
  readonly top: ReadonlyArray<readonly [number, number]>
}

const tell = (prompt: Int32Array): Told => {
  const ids = join(folder, "ids.json")
  writeFileSync(ids, JSON.stringify([...prompt]))
  const [command, ...rest] = oracle.split(" ")
  const args = [...rest, model, ids, "--drop", drop]
  const { status, stdout, stderr } = spawnSync(command!, args, { encoding: "utf8", maxBuffer: 1 << 28 })
  if (status !== 0) throw new Error(`${command} ${args.join(" ")} ended with status ${status}: ${stderr}`)
  return JSON.parse(stdout) as Told
}

/** Rows of the prompt that are left after each selection. */
const rowsOf = (length: number, bitmaps: ReadonlyArray<Uint32Array>): Array<ReadonlyArray<number>> => {
  let rows: ReadonlyArray<number> = Array.from({ length }, (_, row) => row)
  return bitmaps.map((bitmap) => {
    const before = rows
    rows = Array.from(keptIndices(bitmap, { rows: before.length, ...shape }), (index) => before[index]!)
    return rows
  })
}

const differing = (one: ReadonlyArray<number>, other: ReadonlyArray<number>): number => {
  const [a, b] = [new Set(one), new Set(other)]
  return one.filter((row) => !b.has(row)).length + other.filter((row) => !a.has(row)).length
}

/** The server's own defaults. */
const defaults = Object.fromEntries(
  Object.entries(modelOptions).map(([name, { defaultValue }]) => [name, defaultValue]),
)
const settings = { ...defaults, model, "drop-schedule": schedule } as ModelSettings

const program = Effect.gen(function* () {
  const make = yield* promptMaker(yield* readHaystack(undefined))
  let faults = 0
  for (let number = 0; number < Number(values.prompts); number++) {
    const kind = trainedKinds[number % trainedKinds.length]!
    const made = yield* make(kind, Number(values.tokens), Number(values.seed), number)
    const prompt = made.prompt.tokens
    const own = yield* ask({ requestId: `oracle-${number}`, prompt, drop: true, maxTokens: 32, logprobs: 5 })
    const told = tell(prompt)
    const kept = rowsOf(prompt.length, own.bitmaps)
    const differences = kept.map((rows, segment) => differing(rows, told.keptRows[segment]!))
    const expected = new Map(told.top)
    const gaps = own.likely[0]!.map(([token, logprob]) => Math.abs(logprob - (expected.get(token) ?? -100)))
    const isFar = differences.some((rows) => rows > Number(values.near) * shape.block)
    const isWrong = Math.max(...gaps) > Number(values.tolerance)
    if (kept.length !== dropLayers.length || isFar || isWrong) faults++
    console.log(
      [
        `prompt ${number + 1}, ${prompt.length} tokens`,
        `kept ${kept.map((rows) => rows.length).join(", ")}`,
        `oracle ${told.keptRows.map((rows) => rows.length).join(", ")}`,
        `rows that differ ${differences.join(", ")}`,
        `log-probabilities within ${Math.max(...gaps).toFixed(4)} (${gaps.length} tokens)`,
      ].join(" | "),
    )
  }
  const { executor } = (yield* Engine).model
  console.log(`${executor.device}: ${faults === 0 ? "as the oracle" : `${faults} prompts differ`}`)
  if (faults > 0) process.exitCode = 1
})

try {
  const layer = EngineLive.layer(settings, [], executorLive)
  await Effect.runPromise(Effect.scoped(Effect.provide(program, layer)))
} finally {
  rmSync(folder, { recursive: true })
}
