/** Prompts that leave out keys, over every family's tiny model: they answer the same however they are cut, and whatever is beside them. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type DropSchedule, denseSchedule, pToQ32 } from "@uniprefill/model/DropSchedule"
import { readModelConfig } from "@uniprefill/model/ModelConfig"
import { describe, expect, it } from "vitest"
import { writeModelFiles } from "../golden/modelFiles.ts"
import { type TinyConfig, tinyConfigs } from "../golden/tinyConfigs.ts"
import { tinyModels, tinyTensors } from "../golden/tinyModels.ts"
import { withCpuExecutor } from "./CpuExecutor.ts"
import { type LoopAnswer, type LoopRequest, separate, serve, worstCase } from "./LoopServer.ts"
import { promptOf } from "./Prompts.ts"
import { same } from "./SameAnswer.ts"

const sizes = {
  pageSize: 128,
  slabs: 4000,
  maxRowsPerStep: 400,
  maxTokens: 1000,
  slots: 8,
  threads: 2,
  kernels: "auto",
} as const

/** With room for prompts of several blocks of rows. */
const longer = ({ config, ...rest }: TinyConfig): TinyConfig => {
  const text = config["text_config"] as TinyConfig["config"] | undefined
  const positions = { max_position_embeddings: 2048 }
  return {
    ...rest,
    config: text === undefined ? { ...config, ...positions } : { ...config, text_config: { ...text, ...positions } },
  }
}

/** Over all models. */
let preemptions = 0

describe.each(tinyModels)("%s", (name) => {
  const model = longer(tinyConfigs[name]!)
  const { spec } = readModelConfig("config.json", model.config)
  const full = spec.layers.flatMap(({ mixer }, layer) => (mixer.kind === "full" ? [layer] : []))
  // The last full layer that is not the model's last drops, so that those before it leave out keys.
  const drop = full.findLast((layer) => layer < spec.layers.length - 1)
  const schedule: DropSchedule = {
    ...denseSchedule,
    dropLayers: drop === undefined ? [] : [{ layer: drop, p: 0.6 }],
    lastQ: 32,
    minPromptTokens: 100,
  }
  const pQ32 = drop === undefined ? null : [pToQ32(0.6)]
  const request = (over: Partial<LoopRequest>): LoopRequest => ({
    prompt: promptOf(700, 64, 3),
    maxTokens: 20,
    pQ32,
    sampling: { temperature: 1, seed: 5n },
    ...over,
  })
  const requests = [
    request({ answers: 2 }),
    // Whole blocks of rows, so that its last row leaves out keys like the others.
    request({ prompt: promptOf(640, 64, 4), pQ32: null, sampling: { temperature: 0 } }),
    request({ prompt: promptOf(800, 64, 3, 512), at: 4, cached: true }),
    request({ prompt: promptOf(650, 64, 6, 512), at: 60, cached: true }),
    // Answers that outgrow the memory that their prompts were let in with.
    ...[8, 9, 10].map((seed) => request({ prompt: promptOf(250, 64, seed), maxTokens: 150 })),
  ]

  it("cuts prompts at whole blocks of rows, shares and takes back memory, and changes no bit", async () => {
    const directory = mkdtempSync(join(tmpdir(), "uniprefill-sparsity-"))
    const serving = <A>(slabs: number, use: Parameters<typeof withCpuExecutor<A>>[3]) =>
      withCpuExecutor(directory, schedule, { ...sizes, slabs, prefillSparsity: 0.6 }, use)
    try {
      writeModelFiles(directory, model.config, tinyTensors(name, model))
      const alone: Array<Array<LoopAnswer>> = []
      for (const of of requests) {
        const own: Array<LoopAnswer> = []
        for (const single of separate(of)) {
          const outcome = await serving(4000, (executor) => {
            expect(executor.info.chunkRows).toBe(128)
            return serve(executor, schedule, [single])
          })
          own.push(outcome.answers[0]!)
        }
        alone.push(own)
      }
      // Log probabilities of a prompt's tokens take all of its rows through the last layer, which others leave out there.
      const asked = { ...requests[1]!, promptLogprobs: 2 }
      const scored = (await serving(4000, (executor) => serve(executor, schedule, [asked]))).answers[0]!
      expect(scored.promptRows).toBe(asked.prompt.length - 1)
      same(scored, alone[1]![0]!)
      // The least memory that any request fits into, so that some are preempted.
      const least = await serving(4000, async (executor) => {
        const { driver } = await serve(executor, schedule, [])
        return Math.max(...requests.map((of) => worstCase(driver, of)))
      })
      let hits = 0
      for (const slabs of [4000, ...[1, 1.4].map((times) => Math.ceil(least * times))]) {
        const { answers, driver } = await serving(slabs, (executor) =>
          serve(executor, schedule, requests, {
            stepBudgetMicros: 200,
            idleStepBudgetMicros: 300,
            maxStepsInFlight: 2,
            resumeEvery: 128,
            headroomTokens: 0,
          }),
        )
        hits += driver.scheduler.memory.prefixHits
        preemptions += driver.scheduler.preemptions
        for (const [i, answer] of answers.entries())
          for (const [n, one] of [answer, ...answer.others].entries()) same(one, alone[i]![n]!)
      }
      expect(hits).toBeGreaterThan(0)
      // Keys are left out where a layer below the drop layer, or the model's last one, has full attention.
      const all = await withCpuExecutor(directory, schedule, sizes, (executor) =>
        serve(executor, schedule, [separate(requests[0]!)[0]!]),
      )
      const leavesOut = full.some((layer) => layer < (drop ?? spec.layers.length - 1))
      const isSame = all.answers[0]!.logits[0]!.every((bits, i) => bits === alone[0]![0]!.logits[0]![i])
      expect(isSame).toBe(!leavesOut)
    } finally {
      rmSync(directory, { recursive: true })
    }
  })
})

it("refuses plans that cut prompts elsewhere, by the rows", async () => {
  const directory = mkdtempSync(join(tmpdir(), "uniprefill-sparsity-"))
  try {
    const model = longer(tinyConfigs["llama-gqa"]!)
    writeModelFiles(directory, model.config, tinyTensors("llama-gqa", model))
    const of = { prompt: promptOf(500, 64, 3), maxTokens: 2, pQ32: null }
    const cut = withCpuExecutor(directory, denseSchedule, { ...sizes, prefillSparsity: 0.6 }, (executor) =>
      serve(executor, denseSchedule, [of], { chunkRows: 64, idleStepBudgetMicros: 70, stepBudgetMicros: 70 }),
    )
    await expect(cut).rejects.toThrow("rows 0 to 64 of 500: with prefill sparsity prompts are cut at multiples of 128")
  } finally {
    rmSync(directory, { recursive: true })
  }
})

it("covers preemption, and models with full attention alone, with windows and with recurrence", () => {
  expect(preemptions).toBeGreaterThan(0)
  const specs = tinyModels.map((name) => readModelConfig("config.json", tinyConfigs[name]!.config).spec)
  const leaving = specs.filter((spec) => spec.layers.slice(0, -2).some(({ mixer }) => mixer.kind === "full"))
  const kinds = new Set(leaving.flatMap((spec) => spec.layers.map(({ mixer }) => mixer.kind)))
  expect(kinds).toEqual(new Set(["full", "sliding", "delta"]))
})
