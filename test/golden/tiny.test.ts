/**
 * Logits of small random models of every family, against those that transformers gave (tiny_logits.json, made once by
 * transformers_logits.py): prefill of the first half, then the rest of the text given token by token.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { it } from "@effect/vitest"
import { layerCpu, layerReference } from "@uniprefill/executor-native/NativeExecutor"
import { Executor, greedy, type RequestContent } from "@uniprefill/executor/contract/Executor"
import { denseSchedule } from "@uniprefill/model/DropSchedule"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import { StateOperation, StepPlan } from "@uniprefill/scheduler/StepPlan"
import { Effect } from "effect"
import { describe, expect } from "vitest"
import { tinyModels, writeTinyModel } from "./tinyModels.ts"

interface Golden {
  readonly tokens: ReadonlyArray<number>
  readonly vocabulary: number
  /** Base64 of f32, [positions × vocabulary]. */
  readonly float32: string
}

const golden: Readonly<Record<string, Golden>> = JSON.parse(
  readFileSync(new URL("tiny_logits.json", import.meta.url), "utf8"),
).models

const contentOf = (tokens: Int32Array): RequestContent => ({
  tokens,
  promptLength: tokens.length,
  pQ32: null,
  bitmaps: [],
  sampling: greedy,
  returnLogits: true,
  promptLogprobs: -1,
})

/** Logits behind every token of `tokens` from number `prefilled − 1` on. */
const logitsOf = Effect.fnUntraced(function* (tokens: ReadonlyArray<number>, prefilled: number) {
  const executor = yield* Executor
  const { layout } = executor.info
  const rows: Array<Float32Array> = []
  const plan = new StepPlan()
  const run = Effect.gen(function* () {
    yield* executor.enqueue(plan)
    const { logits } = yield* executor.nextResult
    rows.push(new Float32Array(logits.data.slice(2, logits.length).buffer))
  })
  yield* executor.putContent(1, contentOf(Int32Array.from(tokens.slice(0, prefilled))))
  plan.clear(1)
  plan.opens.push2(0, 1)
  let slab = 0
  for (const [table, { slabsPerPage }] of layout.tables.entries()) {
    const count = Math.ceil(tokens.length / layout.pageSize) * slabsPerPage
    for (let i = 0; i < count; i++) plan.grants.push3(0, table, slab++)
  }
  if (layout.stateSlotBytes > 0) plan.states.push3(0, StateOperation.zero, 0)
  plan.items.push3(0, 0, prefilled)
  plan.items.push2(0, layout.segments.length - 1)
  plan.samples.push2(0, 0)
  yield* run
  for (let i = prefilled; i < tokens.length; i++) {
    plan.clear(i - prefilled + 2)
    // It leaves the decode set and joins again with the text's own token.
    if (i > prefilled) plan.leaves.push(0)
    plan.joins.push2(0, tokens[i]!)
    yield* run
  }
  return rows
})

/** ‖a − b‖ / ‖b‖ */
const distance = (a: Float32Array, b: Float32Array): number => {
  let difference = 0
  let norm = 0
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2
    norm += b[i]! ** 2
  }
  return Math.sqrt(difference / norm)
}

const errorsOf = Effect.fnUntraced(function* (name: string, device: "cpu" | "reference") {
  const { tokens, vocabulary, float32 } = golden[name]!
  const expected = new Float32Array(new Uint8Array(Buffer.from(float32, "base64")).buffer)
  const directory = mkdtempSync(join(tmpdir(), "uniprefill-tiny-"))
  try {
    writeTinyModel(directory, name)
    const model = yield* loadModelDirectory(directory)
    const options = {
      model,
      schedule: denseSchedule,
      memoryBytes: 1 << 22,
      pageSize: 64,
      slots: 1,
      maxRowsPerStep: 128,
      maxTokens: tokens.length,
      threads: 1,
    }
    const layer = device === "cpu" ? layerCpu(options) : layerReference(options)
    const prefilled = tokens.length / 2
    const rows = yield* logitsOf(tokens, prefilled).pipe(Effect.provide(layer))
    return rows.map((row, i) => {
      const position = prefilled - 1 + i
      return distance(row, expected.subarray(position * vocabulary, (position + 1) * vocabulary))
    })
  } finally {
    rmSync(directory, { recursive: true })
  }
})

describe.each(tinyModels.filter((name) => name in golden))("%s", (name) => {
  it.live("gives transformers' logits in double precision", () =>
    Effect.gen(function* () {
      const errors = yield* errorsOf(name, "reference")
      expect(errors).toHaveLength(41)
      expect(Math.max(...errors)).toBeLessThan(1e-4)
    }).pipe(Effect.provide(NodeServices.layer)),
  )

  it.live("gives them on the CPU but for the rounding of bf16", () =>
    Effect.gen(function* () {
      const errors = (yield* errorsOf(name, "cpu")).toSorted((a, b) => a - b)
      expect(errors[Math.floor(errors.length / 2)]).toBeLessThan(1e-2)
      // Where two experts are nearly level, rounding may choose the other one: a row is then off by an expert's share.
      const off = errors.filter((error) => error > 1.5e-2).length
      expect(off).toBeLessThanOrEqual(name.includes("moe") || name.includes("next") ? 4 : 0)
    }).pipe(Effect.provide(NodeServices.layer)),
  )
})

it("covers every family's tiny model", () => {
  expect(tinyModels.filter((name) => !(name in golden))).toEqual([])
})
