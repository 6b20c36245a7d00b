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
import { denseSchedule } from "@uniprefill/model/DropSchedule"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import { Effect } from "effect"
import { describe, expect } from "vitest"
import { errorsAgainst, type Golden } from "./tinyLogits.ts"
import { tinyModels, writeTinyModel } from "./tinyModels.ts"

const golden: Readonly<Record<string, Golden>> = JSON.parse(
  readFileSync(new URL("tiny_logits.json", import.meta.url), "utf8"),
).models

const errorsOf = Effect.fnUntraced(function* (name: string, device: "cpu" | "reference") {
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
      maxTokens: golden[name]!.tokens.length,
      threads: 1,
    }
    const layer = device === "cpu" ? layerCpu(options) : layerReference(options)
    return yield* errorsAgainst(golden[name]!).pipe(Effect.provide(layer))
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
