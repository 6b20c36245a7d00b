/**
 * Logits of small random models of every family on a CUDA device, against those that transformers gave for the same files:
 *
 *     node --conditions=source test/golden/tinyModels.ts DIRECTORY --wide
 *     python3 test/golden/transformers_logits.py DIRECTORY LOGITS.json
 *     node --conditions=source test/gpu/golden.ts DIRECTORY LOGITS.json [cuda|cpu|reference]
 *
 * Prefill of the first half, then token by token. The median row of a model must be within 1 %, all but a few within 2 %: where two
 * experts are nearly level, rounding may choose the other one.
 */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { layerCpu, layerCuda, layerReference } from "@uniprefill/executor-native/NativeExecutor"
import { Executor } from "@uniprefill/executor/contract/Executor"
import { denseSchedule } from "@uniprefill/model/DropSchedule"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import { Effect } from "effect"
import { errorsAgainst, type Golden } from "../golden/tinyLogits.ts"

const [directory, file, device = "cuda"] = process.argv.slice(2)
if (directory === undefined || file === undefined) {
  console.error("usage: golden.ts DIRECTORY LOGITS.json [cuda|cpu|reference]")
  process.exit(2)
}
const golden = (JSON.parse(readFileSync(file, "utf8")) as { readonly models: Readonly<Record<string, Golden>> }).models

const errorsOf = Effect.fnUntraced(function* (name: string) {
  const model = yield* loadModelDirectory(join(directory, name))
  const common = { model, schedule: denseSchedule, pageSize: 64, slots: 1, maxRowsPerStep: 128 }
  const options = { ...common, maxTokens: golden[name]!.tokens.length, memoryBytes: 1 << 24, threads: 1 }
  const { memoryBytes: _, threads: _threads, ...onDevice } = options
  const layer =
    device === "cpu"
      ? layerCpu(options)
      : device === "reference"
        ? layerReference(options)
        : layerCuda({ ...onDevice, memoryFraction: 0.2 })
  return yield* Effect.gen(function* () {
    const errors = (yield* errorsAgainst(golden[name]!)).toSorted((a, b) => a - b)
    return { errors, device: (yield* Executor).info.device }
  }).pipe(Effect.provide(layer))
})

const program = Effect.gen(function* () {
  let failed = 0
  for (const name of Object.keys(golden)) {
    const { errors, device: on } = yield* errorsOf(name)
    const median = errors[errors.length >> 1]!
    const off = errors.filter((error) => !(error < 2e-2)).length
    const good = median < 1e-2 && off <= (name.includes("moe") || name.includes("next") ? 4 : 0)
    if (!good) failed++
    const numbers = [`median ${median.toExponential(2)}`, `largest ${errors.at(-1)!.toExponential(2)}`, `${off} off`]
    console.log(`${good ? "ok    " : "FAILED"} ${name}: ${numbers.join(", ")} of ${errors.length} rows; ${on}`)
  }
  console.log(
    failed === 0 ? `all ${Object.keys(golden).length} models agree with transformers` : `${failed} models differ`,
  )
  if (failed > 0) process.exitCode = 1
})

await Effect.runPromise(program.pipe(Effect.provide(NodeServices.layer)))
