import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { NodeFileSystem, NodePath } from "@effect/platform-node"
import { layerCpu } from "@uniprefill/executor-native/NativeExecutor"
import { Executor } from "@uniprefill/executor/contract/Executor"
import { fromRunner } from "@uniprefill/executor/reference/ReferenceExecutor"
import { makeReferenceModel, referenceSpec } from "@uniprefill/executor/reference/ReferenceModel"
import { ReferenceRunner } from "@uniprefill/executor/reference/ReferenceRunner"
import { layerSim } from "@uniprefill/executor/simulated/SimulatedExecutor"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import { Effect } from "effect"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import {
  expectRefusal,
  type MalformedPlan,
  malformedExecutor,
  malformedModel,
  malformedPlans,
  malformedSchedule as schedule,
} from "./MalformedPlans.ts"
import { writeRandomModel } from "./RandomModel.ts"

const { layers, intermediate, ...dimensions } = malformedModel
const spec = referenceSpec({
  ...dimensions,
  intermediate,
  layers: Array.from({ length: layers }, () => "full" as const),
})
const { slabs, ...limits } = malformedExecutor
let directory: string

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "uniprefill-model-"))
  writeRandomModel(directory, { ...malformedModel, tied: true, seed: 3 })
})
afterAll(() => rmSync(directory, { recursive: true }))

const reference = (plan: MalformedPlan) =>
  expectRefusal(
    fromRunner(new ReferenceRunner({ model: makeReferenceModel(spec, 1), schedule, ...malformedExecutor })),
    plan,
  )

const simulated = (plan: MalformedPlan) => {
  const { slabBytes } = makeKvLayout(spec, schedule, {
    pageSize: limits.pageSize,
    kvElementBytes: 2,
    carryElementBytes: 4,
  })
  const options = { spec, schedule, ...limits, memoryBytes: slabs * slabBytes, timeScale: 0 }
  return Effect.gen(function* () {
    yield* expectRefusal(yield* Executor, plan)
  }).pipe(Effect.provide(layerSim({ ...options, costModel: () => ({ stepMicros: () => 1 }) })))
}

const native = (plan: MalformedPlan) =>
  Effect.gen(function* () {
    const model = yield* loadModelDirectory(directory)
    const elements = { kvElementBytes: 2, carryElementBytes: 4 }
    const { slabBytes } = makeKvLayout(model.spec, schedule, { pageSize: limits.pageSize, ...elements })
    const options = { model, schedule, ...limits, memoryBytes: slabs * slabBytes, threads: 1 }
    yield* Effect.gen(function* () {
      yield* expectRefusal(yield* Executor, plan)
    }).pipe(Effect.provide(layerCpu(options)))
  }).pipe(Effect.scoped, Effect.provide([NodeFileSystem.layer, NodePath.layer]))

describe.each(Object.entries({ reference, simulated, native }))("the %s executor refuses", (_, refuse) => {
  it.each(malformedPlans.map((plan) => [plan.name, plan] as const))("%s", async (_name, plan) => {
    await expect(Effect.runPromise(refuse(plan))).resolves.toBeUndefined()
  })
})
