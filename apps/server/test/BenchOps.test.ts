import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { type Calibration, decodeCalibration } from "@uniprefill/cost-model/Calibration"
import { Effect, References } from "effect"
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest"
import { benchOps, type BenchOpsSettings } from "uniprefill/bench/BenchOps"
import { benchOpsOptions } from "uniprefill/bench/EngineBenchOptions"

let folder: string
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), "uniprefill-ops-"))))
afterAll(() => rmSync(folder, { recursive: true }))
afterEach(() => vi.restoreAllMocks())

const defaults = Object.fromEntries(
  Object.entries(benchOpsOptions).map(([name, { defaultValue }]) => [name, defaultValue]),
)

interface Report {
  readonly results: ReadonlyArray<{ readonly operation: string; readonly ms: number }>
  readonly prediction_error: { readonly median: number; readonly largest: number }
}

/** Runs `bench ops --json --out`; gives what it printed and the file's content. */
const run = async (settings: Partial<BenchOpsSettings>) => {
  let printed = ""
  vi.spyOn(process.stdout, "write").mockImplementation((text) => {
    printed += String(text)
    return true
  })
  const out = join(folder, "made.calibration.json")
  const all = { ...defaults, "num-iters": 1, out, ...settings } as BenchOpsSettings
  await Effect.runPromise(
    benchOps(all, true).pipe(
      Effect.provide(NodeServices.layer),
      Effect.provideService(References.MinimumLogLevel, "Error"),
    ),
  )
  return {
    report: JSON.parse(printed) as Report,
    calibration: decodeCalibration(JSON.parse(readFileSync(out, "utf8"))),
  }
}

describe("bench ops", () => {
  it("finds the calibration of a simulated device, and predicts its steps", async () => {
    const known: Calibration = {
      format: "uniprefill-calibration",
      version: 2,
      device: "known",
      source: "assumed",
      note: "",
      gemm: [
        { at: 64, teraFlops: 20 },
        { at: 8192, teraFlops: 70 },
      ],
      attention: [
        { at: 1024, teraFlops: 40 },
        { at: 16_384, teraFlops: 60 },
      ],
      copyTeraBytes: 3,
      keyTeraBytes: 0.5,
      decodeRowMicros: 4,
      mixedMicros: 400,
      mixedRowMicros: 9,
      selectionMicros: 60,
      scoreTeraFlops: 3,
      stepMicros: 900,
      itemMicros: 25,
    }
    const file = join(folder, "known.calibration.json")
    writeFileSync(file, JSON.stringify(known))
    const sim = { executor: "sim", "time-scale": 0, "cost-model": file, "kv-memory": 2 ** 33 } as const
    const { report, calibration } = await run({ ...sim, "input-len": 16_384 })
    expect(report.prediction_error.median).toBeLessThan(0.01)
    expect(report.prediction_error.largest).toBeLessThan(0.1)
    const near = (value: number | undefined, of: number, by: number) =>
      expect(Math.abs(value! / of - 1)).toBeLessThan(by)
    near(calibration.keyTeraBytes, known.keyTeraBytes!, 0.02)
    near(calibration.decodeRowMicros, known.decodeRowMicros!, 0.3)
    near(calibration.mixedMicros, known.mixedMicros!, 0.3)
    near(calibration.mixedRowMicros, known.mixedRowMicros!, 0.1)
    near(calibration.selectionMicros, known.selectionMicros!, 0.05)
    near(calibration.scoreTeraFlops, known.scoreTeraFlops!, 0.05)
    near(calibration.itemMicros, known.itemMicros, 0.4)
    near(calibration.attention.at(-1)!.teraFlops, 60, 0.05)
    expect(calibration.fittedTo).toEqual({ model: "needle-10m-deep", tensorParallel: 1 })
  })

  it("measures every operation on the CPU", async () => {
    const { report, calibration } = await run({ executor: "cpu", "input-len": 1024, "max-num-seqs": 9 })
    expect(calibration.source).toBe("measured")
    expect(calibration.gemm.map(({ at }) => at)).toEqual([64, 128, 256, 512, 704, 1024])
    expect(calibration.attention).toHaveLength(16)
    const operations = new Set(report.results.map(({ operation }) => operation))
    expect([...operations]).toEqual([
      "copy",
      "prompt",
      "prompts in one step",
      "chunk",
      "decode",
      "decode beside a prompt",
      "selection and read-back",
      "chunk with a selection",
      "host, two steps in flight",
      "top-p sampling",
    ])
    for (const { ms } of report.results) expect(Number.isFinite(ms)).toBe(true)
  })

  it("refuses where too little fits to measure with", async () => {
    await expect(run({ executor: "cpu", "max-model-len": 512 })).rejects.toThrow(/1024 tokens are the least/)
  })
})
