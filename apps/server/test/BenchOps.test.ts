import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { NodeServices } from "@effect/platform-node"
import { fc, test } from "@fast-check/vitest"
import { type Calibration, decodeCalibration } from "@uniprefill/cost-model/Calibration"
import { DeviceCostModel } from "@uniprefill/cost-model/DeviceCostModel"
import { inSixteenBits } from "@uniprefill/cost-model/ModelShape"
import { operationWork } from "@uniprefill/cost-model/OperationWork"
import { executorLayout } from "@uniprefill/executor/contract/ExecutorLayout"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import { StepLoad } from "@uniprefill/scheduler/StepLoad"
import { Effect, References } from "effect"
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest"
import { benchOps, type BenchOpsSettings } from "uniprefill/bench/BenchOps"
import { benchOpsOptions } from "uniprefill/bench/EngineBenchOptions"
import { Patience } from "uniprefill/bench/OpsMeasure"
import { embeddedModel } from "uniprefill/options/ModelOptions"

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
  readonly device_seconds: number
  readonly prediction_errors: ReadonlyArray<{ readonly operation: string; readonly steps: number }>
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
      // A slow machine measures as much as a fast one.
      Effect.provideService(Patience, Number.POSITIVE_INFINITY),
    ),
  )
  return {
    report: JSON.parse(printed) as Report,
    calibration: decodeCalibration(JSON.parse(readFileSync(out, "utf8"))),
  }
}

describe("bench ops", () => {
  const plants = fc.record({
    stepMicros: fc.integer({ min: 0, max: 1500 }),
    itemMicros: fc.integer({ min: 0, max: 80 }),
    mixedMicros: fc.integer({ min: 0, max: 600 }),
    mixedRowMicros: fc.integer({ min: 0, max: 15 }),
    readBackMicros: fc.integer({ min: 0, max: 800 }),
    selectionMicros: fc.integer({ min: 0, max: 150 }),
    scoreTeraFlops: fc.integer({ min: 1, max: 20 }),
    keyTeraBytes: fc.double({ min: 0.2, max: 2, noNaN: true }),
    gemm: fc.integer({ min: 10, max: 60 }),
    attention: fc.integer({ min: 20, max: 60 }),
    /** µs to read the weights for 1, 16 and 64 rows that decode: each more than the one before. */
    decode: fc.tuple(...[1, 2, 3].map(() => fc.integer({ min: 100, max: 700 }))),
  })

  // A fixed seed: how near a drawn device is found is luck.
  test.prop([plants], { numRuns: 6, seed: 7 })(
    "finds what a simulated device was given, and predicts other steps of it within 3%",
    async ({ gemm, attention, decode, ...times }) => {
      const model = await Effect.runPromise(
        loadModelDirectory(embeddedModel()).pipe(Effect.provide(NodeServices.layer)),
      )
      const { spec, schedule } = model
      const layout = executorLayout(spec, schedule, 1, { pageSize: 128, kvElementBytes: 2, carryElementBytes: 4 })
      const work = operationWork(inSixteenBits(spec), layout, 1)
      const weights = work.reduce((sum, one) => sum + one.decodeWeightBytes, 0)
      const known: Calibration = {
        format: "uniprefill-calibration",
        version: 3,
        device: "known",
        source: "assumed",
        note: "",
        gemm: [
          { at: 64, teraFlops: gemm / 2 },
          { at: 8192, teraFlops: gemm },
        ],
        attention: [
          { at: 1024, teraFlops: attention },
          { at: 16_384, teraFlops: 1.3 * attention },
        ],
        copyTeraBytes: 3,
        decode: [1, 16, 64].map((at, i) => {
          const micros = decode.slice(0, i + 1).reduce((a, b) => a + b)
          return { at, teraBytes: weights / micros / 1e6 }
        }),
        ...times,
      }
      const file = join(folder, "known.calibration.json")
      writeFileSync(file, JSON.stringify(known))
      const sim = { executor: "sim", "time-scale": 0, "cost-model": file, "kv-memory": 2 ** 33 } as const
      const { report, calibration } = await run({ ...sim, "input-len": 8192, "max-num-seqs": 80 })
      expect(report.prediction_error.median).toBeLessThan(0.005)
      expect(report.prediction_error.largest).toBeLessThan(0.03)

      const costs = { link: null, work, lastQ: schedule.lastQ, maxRowsPerStep: 8192 }
      const real = new DeviceCostModel({ ...costs, calibration: known })
      const made = new DeviceCostModel({ ...costs, calibration })
      const step = (decodes: number, keys: number, prompts: ReadonlyArray<number>, kept: number): StepLoad => {
        const load = new StepLoad(work.length)
        load.decodeRows = decodes
        load.items = prompts.length
        for (let s = 0; s < work.length; s++) {
          load.addDecodes(s, decodes, keys)
          for (const rows of prompts) {
            const own = (i: number) => Math.round(rows * kept ** i)
            load.addRows(1, s, 0, own(s), own(s), own(Math.max(0, s - 1)))
            if (s < work.length - 1) load.addSelection(1, s, own(s))
          }
        }
        return load
      }
      const others = {
        "few rows decode": step(4, 700, [], 1),
        "40 rows decode": step(40, 1500, [], 1),
        "56 rows decode": step(56, 3000, [], 1),
        "a prompt drops": step(0, 0, [3000], 0.8),
        "a short prompt drops": step(0, 0, [1100], 0.6),
        "three prompts drop": step(0, 0, [900, 1300, 1700], 0.7),
        "a prompt drops beside decodes": step(24, 1000, [1900], 0.75),
      }
      for (const [name, load] of Object.entries(others)) {
        expect([name, Math.abs(made.stepMicros(load) / real.stepMicros(load) - 1) < 0.03]).toEqual([name, true])
      }
      // What six selections of one prompt take, and what more prompts add to them.
      const selecting = (of: DeviceCostModel, load: StepLoad) =>
        of.terms(load).reduce((sum, { name, micros }) => sum + (name.endsWith("selection") ? micros : 0), 0)
      for (const load of [others["a prompt drops"], others["three prompts drop"]]) {
        const whole = real.stepMicros(load)
        expect(Math.abs(selecting(made, load) - selecting(real, load)) / whole).toBeLessThan(0.03)
      }
      expect(calibration.fittedTo).toEqual({ model: "needle-10m-deep", tensorParallel: 1 })
    },
  )

  it("takes less than a minute of two H100 with a Llama-3.1-8B's shape", async () => {
    const model = join(folder, "llama")
    mkdirSync(model)
    const config = {
      architectures: ["LlamaForCausalLM"],
      model_type: "llama",
      hidden_size: 4096,
      intermediate_size: 14_336,
      num_hidden_layers: 32,
      num_attention_heads: 32,
      num_key_value_heads: 8,
      vocab_size: 128_256,
      max_position_embeddings: 131_072,
      rms_norm_eps: 1e-5,
      rope_theta: 500_000,
      tie_word_embeddings: false,
      eos_token_id: 128_001,
    }
    // A simulated executor looks at names alone.
    const attention = ["q_proj", "k_proj", "v_proj", "o_proj"].map((name) => `self_attn.${name}`)
    const mlp = ["gate_proj", "up_proj", "down_proj"].map((name) => `mlp.${name}`)
    const inLayer = ["input_layernorm", "post_attention_layernorm", ...attention, ...mlp]
    const layers = Array.from({ length: config.num_hidden_layers }, (_, layer) => `model.layers.${layer}`)
    const names = [
      "model.embed_tokens",
      "model.norm",
      "lm_head",
      ...layers.flatMap((at) => inLayer.map((name) => `${at}.${name}`)),
    ]
    const weights = "model.safetensors"
    const weightMap = Object.fromEntries(names.map((name) => [`${name}.weight`, weights]))
    writeFileSync(join(model, "config.json"), JSON.stringify(config))
    writeFileSync(join(model, `${weights}.index.json`), JSON.stringify({ weight_map: weightMap }))
    writeFileSync(join(model, weights), Buffer.from([2, 0, 0, 0, 0, 0, 0, 0, ...Buffer.from("{}")]))
    const { report } = await run({
      model,
      executor: "sim",
      "time-scale": 0,
      "drop-schedule": "preset:llama-3.1-8b",
      "tensor-parallel-size": 2,
      "cost-model": fileURLToPath(
        new URL("../../sim/calibrations/h100-x2.llama-3.1-8b.calibration.json", import.meta.url),
      ),
      "kv-memory": 1e11,
      "max-num-seqs": 256,
      "input-len": 32_768,
      "num-iters": 3,
    })
    expect(report.device_seconds).toBeLessThan(60)
    expect(report.prediction_error.largest).toBeLessThan(0.05)
  })

  it("measures every operation on the CPU", async () => {
    const { report, calibration } = await run({ executor: "cpu", "input-len": 1024, "max-num-seqs": 9 })
    expect(calibration.source).toBe("measured")
    expect(calibration.gemm.map(({ at }) => at)).toEqual([64, 128, 256, 512, 576, 704, 832, 1024])
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
      "prompt that drops",
      "host, two steps in flight",
      "top-p sampling",
    ])
    for (const { ms } of report.results) expect(Number.isFinite(ms)).toBe(true)
    // A number for each kind of step that is predicted, of as many steps as were measured.
    const kinds = report.prediction_errors.map(({ operation, steps }) => [operation, steps])
    expect(kinds).toContainEqual(["prompt", 8])
    expect(kinds).toContainEqual(["prompt that drops", 6])
    expect(calibration.readBackMicros! + calibration.selectionMicros!).toBeGreaterThanOrEqual(0)
    expect(calibration.decode!.map(({ at }) => at)).toEqual([1, 8])
  })

  it("refuses where too little fits to measure with", async () => {
    await expect(run({ executor: "cpu", "max-model-len": 512 })).rejects.toThrow(/1024 tokens are the least/)
    await expect(run({ executor: "cpu", "prefill-sparsity": 0.9 })).rejects.toThrow(/steps that read all keys/)
  })
})
