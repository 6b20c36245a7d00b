import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fc, test } from "@fast-check/vitest"
import { pToQ32, type DropSchedule } from "@uniprefill/model/DropSchedule"
import { splitFault } from "@uniprefill/placement/Shards"
import { describe, expect, it } from "vitest"
import { withCpuExecutor } from "./CpuExecutor.ts"
import { offsetSteps } from "./OffsetSteps.ts"
import { sameUpToAbort } from "./SameAnswer.ts"
import { type LoopAnswer, type LoopRequest, separate, serve, worstCase } from "./LoopServer.ts"
import { promptOf } from "./Prompts.ts"
import { writeRandomModel } from "./RandomModel.ts"

const cases = fc.record({
  layers: fc.integer({ min: 2, max: 5 }),
  hidden: fc.constantFrom(32, 64, 72),
  intermediate: fc.constantFrom(40, 96),
  kvHeads: fc.constantFrom(1, 2, 3),
  group: fc.constantFrom(1, 2, 4),
  headDim: fc.constantFrom(16, 32, 64),
  tied: fc.boolean(),
  seed: fc.integer({ min: 1, max: 1_000_000 }),
  drops: fc.array(fc.nat({ max: 4 }), { maxLength: 3 }),
  p: fc.double({ min: 0.2, max: 1, noNaN: true }),
  rule: fc.constantFrom("exclusive" as const, "reference" as const),
  block: fc.constantFrom(16, 32, 64),
  sink: fc.constantFrom(0, 16, 128),
  lastQ: fc.constantFrom(16, 33, 128),
  pageSize: fc.constantFrom(64, 128, 192),
  threads: fc.constantFrom(1, 2),
  ranks: fc.constantFrom(1, 1, 2, 4),
  kernels: fc.constantFrom("auto" as const, "auto" as const, "portable" as const),
  requests: fc.array(
    fc.record({
      length: fc.oneof(fc.integer({ min: 1, max: 130 }), fc.integer({ min: 150, max: 1500 })),
      maxTokens: fc.integer({ min: 1, max: 60 }),
      drop: fc.boolean(),
      shared: fc.oneof(fc.constant(0), fc.integer({ min: 64, max: 1500 })),
      cached: fc.constantFrom(true, true, false),
      at: fc.oneof(fc.nat({ max: 8 }), fc.nat({ max: 60 })),
      seed: fc.nat(),
      temperature: fc.constantFrom(0, 0.9, 12),
      higherP: fc.double({ min: 0, max: 1, noNaN: true }),
      answers: fc.constantFrom(1, 1, 2, 3),
      abortAt: fc.option(fc.integer({ min: 0, max: 20 }), { nil: undefined, freq: 3 }),
      abortAnswer: fc.nat({ max: 2 }),
    }),
    { minLength: 1, maxLength: 5 },
  ),
  budget: fc.constantFrom(70, 300, 1000, 10_000),
  maxRowsPerStep: fc.constantFrom(100, 256, 2048),
  maxStepsInFlight: fc.constantFrom(1 as const, 2 as const),
  memory: fc.double({ min: 1, max: 2, noNaN: true }),
})

/** As many of the ranks asked for as can share a model equally. */
const sharing = (model: { hidden: number; intermediate: number; heads: number; kvHeads: number; ranks: number }) => {
  const { hidden, intermediate, heads, kvHeads } = model
  const widths = { heads, kvHeads, inner: intermediate, hiddenSize: hidden }
  let ranks = model.ranks
  while (splitFault(widths, ranks) !== null) ranks /= 2
  return ranks
}

describe("the native runner's answer is the same, bit by bit,", () => {
  test.prop({ one: cases }, { numRuns: Number(process.env["UNIPREFILL_PROPERTY_RUNS"] ?? 20) })(
    "alone in one step of one rank, and cut, batched, forked, preempted and overlapped with others on several",
    async ({ one }) => {
      const directory = mkdtempSync(join(tmpdir(), "uniprefill-model-"))
      try {
        writeRandomModel(directory, { ...one, heads: one.kvHeads * one.group, vocab: 96 })
        const dropLayers = [...new Set(one.drops)]
          .filter((layer) => layer < one.layers - 1)
          .sort((a, b) => a - b)
          .map((layer) => ({ layer, p: one.p }))
        const { rule, block, sink, lastQ } = one
        const schedule: DropSchedule = {
          dropLayers,
          rule,
          block,
          sink,
          lastQ,
          windowBy: "kept",
          minPromptTokens: 100,
        }
        const requests = one.requests.map(
          ({ length, drop, higherP, shared, seed, temperature, ...rest }): LoopRequest => ({
            ...rest,
            prompt: promptOf(length, 96, seed, shared),
            pQ32: drop ? dropLayers.map(({ p }) => pToQ32(Math.max(p, higherP))) : null,
            sampling: { temperature, seed: BigInt(seed) },
          }),
        )
        let largest = 0
        const roomy = { ...one, slabs: 20_000, maxRowsPerStep: 4096 }
        const alone = await withCpuExecutor(directory, schedule, roomy, async (runner) => {
          const answers: Array<ReadonlyArray<LoopAnswer>> = []
          let last = { steps: 0, contents: 0 }
          for (const request of requests) {
            const whole: Array<LoopAnswer> = []
            answers.push(whole)
            for (const single of separate(request)) {
              const shifted = offsetSteps(runner, last)
              const outcome = await serve(shifted, schedule, [single])
              last = shifted.last()
              whole.push(outcome.answers[0]!)
              largest = Math.max(largest, worstCase(outcome.driver, request))
            }
          }
          return answers
        })
        const tensorParallel = sharing({ ...one, heads: one.kvHeads * one.group })
        // What a slab holds differs with the ranks, and so does how many a request needs.
        const worst =
          tensorParallel === 1
            ? largest
            : await withCpuExecutor(directory, schedule, { ...roomy, tensorParallel }, async (runner) => {
                const { driver } = await serve(runner, schedule, [])
                return Math.max(...requests.map((request) => worstCase(driver, request)))
              })
        const tight = { ...one, tensorParallel, slabs: Math.ceil(worst * one.memory) }
        const { answers } = await withCpuExecutor(directory, schedule, tight, (runner) =>
          serve(runner, schedule, requests, {
            stepBudgetMicros: one.budget,
            idleStepBudgetMicros: one.budget,
            maxStepsInFlight: one.maxStepsInFlight,
            maxPrefillWaitMicros: 3,
          }),
        )
        for (const [i, first] of answers.entries()) {
          for (const [n, answer] of [first, ...first.others].entries()) {
            sameUpToAbort(answer, alone[i]![n]!)
            expect(answer.reason === "abort" && requests[i]!.abortAt === undefined).toBe(false)
          }
        }
      } finally {
        rmSync(directory, { recursive: true })
      }
    },
    600_000,
  )
})

describe("the native runner", () => {
  it("without drop layers is dense, bit by bit; so it is where p = 1 keeps every block", async () => {
    const model = { layers: 4, hidden: 64, intermediate: 96, heads: 4, kvHeads: 2, headDim: 32, vocab: 96, tied: true }
    const schedule: DropSchedule = {
      dropLayers: [
        { layer: 0, p: 0.5 },
        { layer: 2, p: 0.5 },
      ],
      rule: "exclusive",
      block: 64,
      sink: 128,
      lastQ: 128,
      windowBy: "kept",
      minPromptTokens: 1,
    }
    const options = { pageSize: 128, slabs: 2000, maxRowsPerStep: 4096, threads: 2, kernels: "auto" as const }
    const directory = mkdtempSync(join(tmpdir(), "uniprefill-model-"))
    try {
      writeRandomModel(directory, { ...model, seed: 7 })
      const logitsOf = (at: DropSchedule, p: number | null) =>
        withCpuExecutor(directory, at, options, async (runner) => {
          const pQ32 = p === null ? null : at.dropLayers.map(() => pToQ32(p))
          const { answers } = await serve(runner, at, [{ prompt: promptOf(1500, 96, 3), maxTokens: 8, pQ32 }])
          return answers[0]!.logits
        })
      const dense = await logitsOf(schedule, null)
      expect(await logitsOf({ ...schedule, dropLayers: [] }, 0.5)).toEqual(dense)
      expect(await logitsOf(schedule, 1)).toEqual(dense)
      expect(await logitsOf(schedule, 0.5)).not.toEqual(dense)
    } finally {
      rmSync(directory, { recursive: true })
    }
  })
})
