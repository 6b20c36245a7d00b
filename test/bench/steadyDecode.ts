/**
 * Host time of one step for N requests that all decode: tick (plan) + stepDone (commit). The heap bytes of a step
 * are those of page tables that grow: each request holds one page more every 128 steps.
 * Run: node --conditions=source --expose-gc test/bench/steadyDecode.ts [requests ...]
 */
import { spawnSync } from "node:child_process"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import { Driver } from "@uniprefill/scheduler/Driver"
import { policyByName, policyNames } from "@uniprefill/scheduler/policies/PolicyByName"
import { StepResult } from "@uniprefill/scheduler/StepResult"
import { deepSchedule, deepSpec } from "../simulation/Models.ts"
import { testCosts } from "../simulation/VirtualServer.ts"

const steps = 20_000
/** Of 64 steady decodes; the program exits with 1 above it. */
const limitMicros = 8

/** `freeSlots`: what waits is refused for want of memory, not of a slot. */
const measure = (requests: number, waiting: number, policyName = "fcfs", freeSlots = 0) => {
  const layout = makeKvLayout(deepSpec, deepSchedule, { pageSize: 128, kvElementBytes: 2, carryElementBytes: 4 })
  const driver = new Driver({
    layout,
    schedule: deepSchedule,
    slabs: 4_000_000,
    slots: requests + freeSlots,
    stateSlots: 0,
    maxRowsPerStep: 8192,
    costModel: testCosts(deepSpec, layout, 128),
    policy: policyByName(policyName)!,
    stepBudgetMicros: 1_000_000_000,
    idleStepBudgetMicros: 1_000_000_000,
    maxPrefillWaitMicros: 1_000_000_000,
    protectAfter: 3,
    protectAfterMicros: 1_000_000_000_000,
    maxStepsInFlight: 1,
    maxModelLen: 200_000,
    maxWaiting: 100_000,
    maxWaitingTokens: 1_000_000_000,
  })
  // As many slots for each tenant: none is taken from another.
  const tenantOf = (i: number) => `tenant ${i % 7}`
  const first = Array.from({ length: requests }, (_, i) => {
    const outcome = driver.submit({ promptLength: 16, drops: false, tenant: tenantOf(i), maxTokens: 50_000 }, 0)
    if (outcome._tag !== "Queued") throw new Error(outcome.detail)
    return outcome.request
  })
  const result = new StepResult()
  let now = 0
  const plan = driver.tick(now).plans[0]!
  result.clear(plan.stepId)
  for (let i = 0; i < plan.samples.length; i += 2) result.tokens.push3(plan.samples.data[i + 1]!, 5, 0)
  driver.stepDone(result)
  if (freeSlots > 0) {
    // All memory is set aside for those that decode.
    const { memory } = driver.scheduler
    const share = Math.floor(memory.unreserved / requests)
    for (const request of first) request.holdings.reservedSlabs += share
    memory.reservations.slabs += share * requests
  }
  for (let i = 0; i < waiting; i++) {
    const promptLength = freeSlots > 0 ? 150_000 : 16
    driver.submit({ promptLength, drops: false, priority: i % 5, tenant: tenantOf(i), maxTokens: 5000 }, 0)
  }
  // Every request decodes from here on: the result of a step is always the same but for its number.
  const tokens: Array<number> = []
  for (let slot = 0; slot < requests; slot++) tokens.push(slot, 5, 0)
  const steady = () => {
    steadyResult.stepId = driver.tick(now).plans[0]!.stepId
    now += 1000
    driver.stepDone(steadyResult)
  }
  const steadyResult = new StepResult()
  steadyResult.tokens.pushAll(tokens)
  for (let i = 0; i < steps; i++) steady()
  const micros: Array<number> = []
  const heapBefore = (globalThis.gc?.(), process.memoryUsage().heapUsed)
  for (let batch = 0; batch < 21; batch++) {
    const start = process.hrtime.bigint()
    for (let i = 0; i < steps / 20; i++) steady()
    micros.push(Number(process.hrtime.bigint() - start) / 1000 / (steps / 20))
  }
  const heapBytesPerStep = (process.memoryUsage().heapUsed - heapBefore) / (21 * (steps / 20))
  micros.sort((a, b) => a - b)
  if (requests === 64 && micros[10]! > limitMicros) process.exitCode = 1
  console.log(
    JSON.stringify({
      requests,
      waiting,
      policy: policyName,
      freeSlots,
      decoding: driver.scheduler.decoding.length,
      stillWaiting: driver.waiting,
      medianMicrosPerStep: Number(micros[10]!.toFixed(2)),
      heapBytesPerStep: Math.round(heapBytesPerStep),
    }),
  )
}

/** Each case in a process of its own, as a server has one configuration: what V8 makes of one does not slow the next. */
type Case = readonly [requests: number, waiting: number, policy?: string, freeSlots?: number]

const only = process.env["UNIPREFILL_BENCH_CASE"]
if (only === undefined) {
  const counts = process.argv.slice(2).map(Number)
  const cases: ReadonlyArray<Case> = [
    ...(counts.length > 0 ? counts : [1, 64, 256]).map((requests): Case => [requests, 0]),
    ...policyNames.map((policy): Case => [64, 4096, policy]),
    ...["fcfs", "fair-share", "shortest-prefill"].map((policy): Case => [64, 4096, policy, 8]),
  ]
  for (const one of cases) {
    const env = { ...process.env, UNIPREFILL_BENCH_CASE: JSON.stringify(one) }
    const { status } = spawnSync(process.execPath, [...process.execArgv, import.meta.filename], {
      env,
      stdio: "inherit",
    })
    if (status !== 0) process.exitCode = 1
  }
} else measure(...(JSON.parse(only) as Case))
