/**
 * Logits of small random models of every family on a CUDA device, against those that transformers gave for the same files:
 *
 *     node --conditions=source test/golden/tinyModels.ts DIRECTORY --wide
 *     python3 test/golden/transformers_logits.py DIRECTORY LOGITS.json
 *     node --conditions=source test/gpu/golden.ts DIRECTORY LOGITS.json [cuda|cpu|reference]
 *
 * Prefill of the first half, then token by token, measured from transformers in float32. The median row of a model must be within 1%, or
 * no further off than transformers itself is in bf16; so must be the share of rows off by more than 2%: where two experts are nearly
 * level, rounding may choose the other one.
 */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { layerCpu, layerCuda, layerReference } from "@uniprefill/executor-native/NativeExecutor"
import { Executor } from "@uniprefill/executor/contract/Executor"
import { denseSchedule } from "@uniprefill/model/DropSchedule"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import { Effect } from "effect"
import { errorsAgainst, type Golden, roundingErrors } from "../golden/tinyLogits.ts"

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

interface Summary {
  readonly median: number
  readonly largest: number
  readonly off: number
}
const summary = (errors: ReadonlyArray<number>): Summary => {
  const sorted = errors.toSorted((a, b) => a - b)
  return {
    median: sorted[sorted.length >> 1]!,
    largest: sorted.at(-1)!,
    off: sorted.filter((error) => !(error < 2e-2)).length,
  }
}
const percent = (share: number) => `${(100 * share).toFixed(2)}%`

const program = Effect.gen(function* () {
  let failed = 0
  for (const name of Object.keys(golden)) {
    const { errors, device: on } = yield* errorsOf(name)
    const own = summary(errors)
    const theirs = summary(roundingErrors(golden[name]!))
    const good = own.median <= Math.max(1e-2, 1.2 * theirs.median) && own.off <= theirs.off + 3
    if (!good) failed++
    const numbers = ({ median, largest, off }: Summary) =>
      `median ${percent(median)}, largest ${percent(largest)}, ${off} off`
    const verdict = good ? "ok    " : "FAILED"
    console.log(
      `${verdict} ${name}: ${numbers(own)} of ${errors.length} rows (transformers in bf16: ${numbers(theirs)}); ${on}`,
    )
  }
  console.log(
    failed === 0 ? `all ${Object.keys(golden).length} models agree with transformers` : `${failed} models differ`,
  )
  if (failed > 0) process.exitCode = 1
})

await Effect.runPromise(program.pipe(Effect.provide(NodeServices.layer)))
