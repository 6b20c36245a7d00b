/**
 * The executor conformance suite on a CUDA device: the cases that CI runs on the CPU, for models of every kind of layer, and every malformed
 * plan.
 *
 *     node --conditions=source test/gpu/conformance.ts [cuda|cpu] [RESULT.json] [RANKS]
 *
 * What must be equal there: the same plans give the same bits. However an answer was computed, its logits are those of its tokens and
 * selections forced through the request alone, within `tolerance`; every greedy token is within `tau` of the largest of those; its selections
 * differ from the request's own in blocks at the cut alone, which p ± `epsilon` decides the other way. What differed is counted.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { layerCpu, layerCuda, cpuElementBytes, cudaElementBytes } from "@uniprefill/executor-native/NativeExecutor"
import { Executor } from "@uniprefill/executor/contract/Executor"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import { rankLayout } from "@uniprefill/placement/RankLayout"
import { Effect } from "effect"
import { executorCases, type Judge } from "../conformance/ExecutorCases.ts"
import { type Device, type Machine, machineKinds, openMachine } from "../conformance/Machine.ts"
import {
  expectRefusal,
  malformedExecutor,
  malformedModel,
  malformedPlans,
  malformedSchedule,
} from "../conformance/MalformedPlans.ts"
import { writeRandomModel } from "../conformance/RandomModel.ts"
import { equal } from "../conformance/SameAnswer.ts"
import { cutDifference, distance, floatsOf, teacherForced } from "../conformance/TeacherForcing.ts"

const [device = "cuda", file, ranks = "1"] = process.argv.slice(2) as [Device?, string?, string?]
const tensorParallel = Number(ranks)

/** Relative distance of rows of logits: most of them, and any; where two experts are nearly level, rounding may choose the other one. */
const tolerance = { median: 0.02, largest: 0.05, withExperts: 0.3 } as const
const tau = 0.5
const epsilon = 0.01

/** What was seen in a case. */
interface Seen {
  readonly distances: Array<number>
  behind: number
  readonly cut: { selections: number; different: number; blocks: number; outside: number }
}
const nothing = (): Seen => ({ distances: [], behind: 0, cut: { selections: 0, different: 0, blocks: 0, outside: 0 } })
let seen = nothing()

const near: Judge = {
  same: async (machine, request, answer) => {
    if (answer.tokens.length === 0) return
    const { prompt, pQ32, sampling } = request
    const bitmaps = pQ32 === null ? [] : answer.bitmaps
    const forced = await teacherForced(machine, request, answer.tokens, bitmaps)
    for (const [i, row] of forced.entries()) {
      seen.distances.push(distance(floatsOf(answer.logits[i]!), row))
      if ((sampling?.temperature ?? 0) > 0) continue
      seen.behind = Math.max(seen.behind, Math.max(...row) - row[answer.tokens[i]!]!)
    }
    if (pQ32 === null) return
    const found = await cutDifference(machine, { prompt, pQ32 }, bitmaps, epsilon)
    for (const name of ["selections", "different", "blocks", "outside"] as const) seen.cut[name] += found[name]
  },
  sameLogits: (logits, others) => {
    equal("rows of logits", logits.length, others.length)
    for (const [i, row] of logits.entries()) seen.distances.push(distance(floatsOf(row), floatsOf(others[i]!)))
  },
}

const percent = (share: number) => `${(100 * share).toFixed(2)}%`

/** Throws where what was seen is more than rounding. */
const judge = (kind: string, { distances, behind, cut }: Seen): string => {
  if (distances.length === 0) return ""
  const sorted = distances.toSorted((a, b) => a - b)
  const [median, largest] = [sorted[sorted.length >> 1]!, sorted.at(-1)!]
  const text =
    `${distances.length} rows of logits, median off by ${percent(median)}, largest ${percent(largest)}; greedy tokens at most ` +
    `${behind.toFixed(3)} behind; ${cut.different} of ${cut.selections} selections differ, in ${cut.blocks} blocks, ${cut.outside} not at the cut`
  const most = kind.endsWith("-moe") ? tolerance.withExperts : tolerance.largest
  if (!(median <= tolerance.median && largest <= most && behind <= tau && cut.outside === 0)) {
    throw new Error(text)
  }
  return text
}

const results: Array<{ readonly model: string; readonly name: string; readonly ok: boolean; readonly text: string }> =
  []
const step = async (model: string, name: string, run: () => Promise<string>) => {
  const [ok, text] = await run().then(
    (said) => [true, said] as const,
    (error: unknown) => [false, error instanceof Error ? error.message : String(error)] as const,
  )
  results.push({ model, name, ok, text })
  console.log(`${ok ? "ok    " : "FAILED"} ${model}: ${name}${text === "" ? "" : `: ${text}`}`)
}

for (const kind of machineKinds) {
  const machine: Machine = await openMachine(device, kind, tensorParallel)
  for (const [name, run] of Object.entries(executorCases)) {
    await step(kind, name, async () => {
      seen = nothing()
      await run(machine, near)
      return judge(kind, seen)
    })
  }
  await machine.close()
}

// A head of 64 is the least that CUDA has kernels for; a page stays one slab.
const sizes = { ...malformedModel, hidden: 64, headDim: 64, heads: tensorParallel, kvHeads: tensorParallel }
const { slabs, ...limits } = malformedExecutor
const directory = mkdtempSync(join(tmpdir(), "uniprefill-model-"))
writeRandomModel(directory, { ...sizes, tied: true, seed: 3 })
await step("llama", `${malformedPlans.length} malformed plans are refused by name`, async () => {
  const model = await Effect.runPromise(loadModelDirectory(directory).pipe(Effect.provide(NodeServices.layer)))
  const elements = device === "cuda" ? cudaElementBytes : cpuElementBytes
  const sized = { pageSize: limits.pageSize, ...elements }
  const { slabBytes } = rankLayout(model.spec, tensorParallel, malformedSchedule, sized)
  const memoryBytes = slabs * slabBytes * tensorParallel
  const options = { model, schedule: malformedSchedule, ...limits, memoryBytes, tensorParallel }
  for (const plan of malformedPlans) {
    const layer = device === "cuda" ? layerCuda(options) : layerCpu({ ...options, threads: 1 })
    const refused = Effect.gen(function* () {
      yield* expectRefusal(yield* Executor, plan)
    }).pipe(Effect.provide(layer), Effect.scoped)
    await Effect.runPromise(refused).catch((error: unknown) => {
      throw new Error(`${plan.name}: ${error instanceof Error ? error.message : String(error)}`)
    })
  }
  return ""
})
rmSync(directory, { recursive: true })

const failed = results.filter(({ ok }) => !ok).length
if (file !== undefined)
  writeFileSync(file, `${JSON.stringify({ device, tensorParallel, tolerance, tau, epsilon, results }, null, 1)}\n`)
console.log(
  failed === 0
    ? `all ${results.length} cases hold on ${device}, tensor parallel ${ranks}`
    : `${failed} of ${results.length} cases failed`,
)
if (failed > 0) process.exitCode = 1
