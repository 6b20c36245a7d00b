/** Tensor parallelism on the CPU over every family's tiny model: however many ranks share it, the answers have the same bits. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type DropSchedule, denseSchedule, pToQ32 } from "@uniprefill/model/DropSchedule"
import { readModelConfig } from "@uniprefill/model/ModelConfig"
import { modelSplitFault } from "@uniprefill/placement/Shards"
import { Effect } from "effect"
import { describe, expect, it } from "vitest"
import { writeModelFiles } from "../golden/modelFiles.ts"
import { type TinyConfig, tinyConfigs } from "../golden/tinyConfigs.ts"
import { tinyModels, tinyTensors } from "../golden/tinyModels.ts"
import { withCpuExecutor } from "./CpuExecutor.ts"
import { type LoopOutcome, type LoopRequest, serve } from "./LoopServer.ts"
import { promptOf } from "./Prompts.ts"
import { same } from "./SameAnswer.ts"

const specOf = ({ config }: TinyConfig) => readModelConfig("config.json", config).spec

/** Every full-attention layer drops but the model's last layer. */
const scheduleOf = (model: TinyConfig): DropSchedule => ({
  ...denseSchedule,
  dropLayers: specOf(model)
    .layers.slice(0, -1)
    .flatMap(({ mixer }, layer) => (mixer.kind === "full" ? [{ layer, p: 0.6 }] : [])),
  block: 16,
  sink: 16,
  lastQ: 32,
  minPromptTokens: 100,
})

const requestsOf = (schedule: DropSchedule): ReadonlyArray<LoopRequest> => {
  const pQ32 = schedule.dropLayers.length === 0 ? null : schedule.dropLayers.map(({ p }) => pToQ32(p))
  const request = (over: Partial<LoopRequest>): LoopRequest => ({
    prompt: promptOf(300, 64, 3),
    maxTokens: 12,
    pQ32,
    sampling: { temperature: 1, seed: 5n },
    ...over,
  })
  return [
    request({ answers: 2 }),
    request({ prompt: promptOf(200, 64, 4), pQ32: null, sampling: { temperature: 0 } }),
    request({ prompt: promptOf(400, 64, 3, 256), at: 4, cached: true }),
    request({ prompt: promptOf(350, 64, 6, 256), at: 20, cached: true }),
  ]
}

const run = (directory: string, schedule: DropSchedule, tensorParallel: number): Promise<LoopOutcome> => {
  const sizes = { pageSize: 64, slabs: 4000, maxRowsPerStep: 256, maxTokens: 500 }
  return withCpuExecutor(
    directory,
    schedule,
    { ...sizes, threads: 2, kernels: "auto", tensorParallel },
    async (executor) => {
      expect(executor.info.tensorParallel).toBe(tensorParallel)
      const checksums: Array<ReadonlyArray<number>> = []
      const nextResult = Effect.tap(executor.nextResult, ({ ranks }) =>
        Effect.sync(() => checksums.push(ranks.toArray())),
      )
      const outcome = await serve({ ...executor, nextResult }, schedule, requestsOf(schedule), {
        stepBudgetMicros: 150,
        idleStepBudgetMicros: 150,
        maxStepsInFlight: 2,
        resumeEvery: 128,
      })
      expect(checksums.filter((of) => of.length !== tensorParallel)).toEqual([])
      return outcome
    },
  )
}

describe.each(tinyModels)("%s", (name) => {
  const model = tinyConfigs[name]!

  it("answers with the same tokens, rows kept and logits on 1, 2 and 4 ranks", async () => {
    const directory = mkdtempSync(join(tmpdir(), "uniprefill-ranks-"))
    try {
      writeModelFiles(directory, model.config, tinyTensors(name, model))
      const schedule = scheduleOf(model)
      const one = await run(directory, schedule, 1)
      expect(one.answers[0]!.others).toHaveLength(1)
      expect(one.answers[0]!.kept.at(-1)! < 300).toBe(schedule.dropLayers.length > 0)
      for (const ranks of [2, 4]) {
        const several = await run(directory, schedule, ranks)
        for (const [i, answer] of one.answers.entries()) {
          for (const [n, alone] of [answer, ...answer.others].entries()) {
            expect(alone.logits).toHaveLength(12)
            same([several.answers[i]!, ...several.answers[i]!.others][n]!, alone)
          }
        }
      }
    } finally {
      rmSync(directory, { recursive: true })
    }
  })
})

it("covers every kind of layer, each of which four ranks can share", () => {
  const specs = tinyModels.map((name) => specOf(tinyConfigs[name]!))
  expect(specs.map((spec) => modelSplitFault(spec, 4)).filter((fault) => fault !== null)).toEqual([])
  const layers = specs.flatMap((spec) => spec.layers)
  expect(new Set(layers.map(({ mixer }) => mixer.kind))).toEqual(new Set(["full", "sliding", "delta"]))
  expect(new Set(layers.map(({ mlp }) => (mlp.kind === "moe" ? mlp.sharedInner > 0 : mlp.kind)))).toEqual(
    new Set(["gated", false, true]),
  )
})
