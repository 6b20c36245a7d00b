import { randomKeep } from "@uniprefill/executor/simulated/KeepModel"
import { denseSchedule, type DropSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import type { CostModel } from "@uniprefill/scheduler/CostModel"
import type { Actions } from "@uniprefill/scheduler/Actions"
import { Driver } from "@uniprefill/scheduler/Driver"
import { policyByName } from "@uniprefill/scheduler/policies/PolicyByName"
import type { FinishReason, Request, Submission } from "@uniprefill/scheduler/Request"
import { StepPlan } from "@uniprefill/scheduler/StepPlan"
import { adversarial } from "./Adversarial.ts"
import { headroom } from "./Headroom.ts"
import { CheckedRunner } from "./CheckedRunner.ts"
import { LoopChecks } from "./LoopChecks.ts"
import { full, sliding, specOf, state } from "./Models.ts"
import { PlanCounts } from "./PlanCounts.ts"
import { type Scenario, type ScenarioChange, type ScenarioRequest, smaller } from "./SwarmScenario.ts"

/** A property of the serving loop that did not hold. */
export class SwarmFailure extends Error {
  constructor(step: number, cause: unknown) {
    super(`step ${step}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
    this.name = "SwarmFailure"
  }
}

export interface SwarmOutcome {
  readonly steps: number
  readonly preemptions: number
  readonly prefixHits: number
  readonly failures: number
  /** What was in force, changed. */
  readonly changes: number
  /** Answers that went on from another's prefill. */
  readonly forks: number
  /** Requests whose p was lowered for a first token that would have been late. */
  readonly lowered: number
  /** Recurrent states copied for later, and restored. */
  readonly snapshots: number
  readonly restores: number
  readonly ended: ReadonlyMap<FinishReason, number>
}

const specs = {
  full: specOf([full, full, full, full]),
  hybrid: specOf([full, full, sliding(96), state, full]),
  sliding: specOf([sliding(100), full, sliding(100), full, full]),
  recurrent: specOf([state, full, state, state, full]),
}
export const dropsAt = (...layers: ReadonlyArray<number>): DropSchedule => ({
  ...denseSchedule,
  dropLayers: layers.map((layer) => ({ layer, p: 0.5 })),
  block: 16,
  sink: 16,
  lastQ: 32,
  minPromptTokens: 100,
})
const schedules: { readonly [M in keyof typeof specs]: DropSchedule } = {
  full: dropsAt(0, 2),
  hybrid: dropsAt(1),
  sliding: dropsAt(1, 3),
  recurrent: dropsAt(1),
}

/** A step is one unit of time to those who wait, and 128 rows are to predictions: so that some answers are worth a turn. */
const rowMicros = 1 / 128

/** Rows, whatever the segment: budgets cut prompts at chosen places. */
const rowCost: CostModel = {
  stepMicros: (load) => load.rows.reduce((sum, rows) => sum + rows, load.decodeRows) * rowMicros,
}

/** What can be changed while the loop runs. */
const inForce = ({ policy, budget }: Pick<Scenario, "policy" | "budget">) => ({
  policy: policy === "adversarial" ? adversarial : policyByName(policy)!,
  stepBudgetMicros: budget * rowMicros,
  idleStepBudgetMicros: budget * 2 * rowMicros,
})

const lastEvent = ({ requests, failures }: Scenario): number =>
  Math.max(0, ...failures, ...requests.map(({ at, abortAfter }) => at + Math.max(0, abortAfter)))

/** Runs a scenario to its end. Throws {@link SwarmFailure} when an invariant breaks after any step, or when it does not end. */
export const runScenario = (scenario: Scenario): SwarmOutcome => {
  const run = new SwarmRun(scenario)
  try {
    return run.toEnd()
  } catch (cause) {
    throw new SwarmFailure(run.step, cause)
  }
}

/** The smallest scenario found that still fails, and how. Cuts are tried for as long as any of them fails too. */
export const shrink = (
  failing: Scenario,
  attempts = 400,
): { readonly scenario: Scenario; readonly message: string } => {
  let scenario = failing
  let message = failureOf(scenario) ?? "it does not fail"
  for (let cut = true; cut;) {
    cut = false
    for (const candidate of smaller(scenario)) {
      if (attempts-- <= 0) return { scenario, message }
      const found = failureOf(candidate)
      if (found === null) continue
      scenario = candidate
      message = found
      cut = true
      break
    }
  }
  return { scenario, message }
}

/** The message of a scenario's failure, null where it holds. */
export const failureOf = (scenario: Scenario): string | null => {
  try {
    runScenario(scenario)
    return null
  } catch (cause) {
    return cause instanceof Error ? cause.message : String(cause)
  }
}

interface Live {
  readonly request: Request
  readonly of: ScenarioRequest
  readonly index: number
  /** Which of the answers to its prompt. */
  readonly answer: number
  readonly outputs: Array<number>
  /** Decided selections, as first seen. */
  readonly bitmaps: Array<string>
  ended: FinishReason | null
}

class SwarmRun {
  step = 0
  private readonly scenario: Scenario
  private readonly driver: Driver
  private readonly runner: CheckedRunner
  private readonly checks: LoopChecks
  private readonly live = new Map<number, Live>()
  /** Steps in flight, the oldest first. */
  private readonly steps: Array<StepPlan> = []
  /** The last plan made in this step. */
  private planned: StepPlan | null = null
  private contents = 0
  private readonly ownerOf = new Map<number, number>()
  /** Requests that have had a slot. */
  private readonly served = new Set<number>()
  private failures = 0
  private changes = 0
  private now = 0

  constructor(scenario: Scenario) {
    this.scenario = scenario
    const spec = specs[scenario.model]
    const schedule = schedules[scenario.model]
    const layout = makeKvLayout(spec, schedule, {
      pageSize: scenario.pageSize,
      kvElementBytes: 2,
      carryElementBytes: 2,
    })
    const { slots, chunkRows } = scenario
    const base = {
      layout,
      schedule,
      slots,
      stateSlots: layout.stateSlotBytes > 0 ? slots + scenario.snapshots : 0,
      resumeEvery: scenario.resumePages * scenario.pageSize,
      ...(chunkRows === null ? {} : { chunkRows }),
      maxRowsPerStep: Math.max(scenario.maxRowsPerStep, slots + (chunkRows ?? 64)),
      costModel: rowCost,
      ...inForce(scenario),
      maxPrefillWaitMicros: 5,
      protectAfter: scenario.protectAfter,
      headroomTokens: scenario.headroom,
      maxPauseMicros: scenario.maxPause,
      sloP: scenario.patience > 0 ? 0.5 : undefined,
      protectAfterMicros: 5000,
      maxStepsInFlight: scenario.stepsInFlight,
      maxModelLen: 4096,
      maxWaiting: 1000,
      maxWaitingTokens: 1_000_000,
    }
    const probe = new Driver({ ...base, slabs: 10_000 })
    let largest = 1
    for (const { promptLength, maxTokens, drops, answers } of scenario.requests) {
      const outcome = probe.submit({ promptLength, maxTokens, drops, answers: Math.min(answers, slots) }, 0)
      if (outcome._tag === "Queued") largest = Math.max(largest, probe.scheduler.memory.worstCase(outcome.request))
    }
    const slabs = Math.ceil(largest * scenario.memory)
    this.runner = new CheckedRunner(
      { layout, schedule, maxRowsPerStep: base.maxRowsPerStep, maxTokens: 4096 },
      { slabs, slots, stateSlots: base.stateSlots },
      // Scoring again would choose otherwise: a key is of one opening of a slot.
      randomKeep(5, [scenario.keep]),
      (key, index) => this.sampled(key, index),
    )
    this.driver = new Driver({ ...base, slabs })
    this.checks = new LoopChecks(
      this.driver,
      this.runner,
      scenario.slowness === 0 || scenario.slowness === 1 ? rowMicros : null,
    )
  }

  /** Does what the loop asks for. Stop strings are found as a shell finds them: when all tokens of a step have been taken. */
  private perform({ tokens, finished, forgets, puts, plans }: Actions): void {
    for (let i = 0; i < tokens.length; i++) this.onToken(tokens.requests[i]!, tokens.tokens.data[i]!)
    for (const { request, reason } of finished) this.onFinished(request, reason)
    for (const id of forgets) this.runner.forgetContent(id)
    for (const request of puts) {
      this.put(request)
      this.checks.put(request)
    }
    for (const plan of plans) {
      this.planned = plan
      this.counted.count(plan)
      for (let i = 0; i < plan.opens.length; i += 2) this.served.add(this.ownerOf.get(plan.opens.data[i + 1]!)!)
      const copy = new StepPlan()
      copy.assign(plan)
      this.steps.push(copy)
    }
    for (let i = 0; i < tokens.length; i++) this.findStop(tokens.requests[i]!)
  }

  toEnd(): SwarmOutcome {
    const { scenario } = this
    const last = lastEvent(scenario)
    // Once nothing new happens, this many steps are enough for everything, one chunk of one request at a time.
    let left = 400
    for (const { promptLength, maxTokens, answers } of scenario.requests) {
      left += 12 * answers * (maxTokens + Math.ceil(promptLength / 16))
    }
    for (; ; this.step++) {
      for (const change of scenario.changes) if (change.at === this.step) this.adjust(change)
      this.arrive()
      this.abort(false)
      if (scenario.failures.includes(this.step)) this.fail()
      const worked = this.work()
      if (this.step < last) continue
      if (!worked) break
      if (--left < 0) throw new Error(`not idle: ${this.driver.running} running, ${this.driver.waiting} waiting`)
    }
    this.checkIdle()
    const ended = new Map<FinishReason, number>()
    for (const one of this.live.values()) ended.set(one.ended!, (ended.get(one.ended!) ?? 0) + 1)
    const { preemptions, memory } = this.driver.scheduler
    const { prefixHits } = memory
    const { forks, snapshots, restores } = this.counted
    const lowered = [...this.live.values()].filter(({ request }) => request.account.isLowered).length
    const { step: steps, failures, changes } = this
    return { steps, preemptions, prefixHits, failures, changes, forks, lowered, snapshots, restores, ended }
  }

  private readonly counted = new PlanCounts()

  // ---------------------------------------------------------------------------------------------------- events

  private arrive(): void {
    for (const [index, of] of this.scenario.requests.entries()) {
      if (of.at !== this.step) continue
      const { promptLength, maxTokens, drops, tenant, priority, cached } = of
      const answers = Math.min(of.answers, this.scenario.slots)
      const stated = of.open ? {} : { maxTokens }
      const { patience } = this.scenario
      const due = patience > 0 ? { deadlineMicros: this.now + patience } : {}
      const submission: Submission = { promptLength, ...stated, drops, tenant, priority, answers, ...due }
      const outcome = this.driver.submit(
        cached ? { ...submission, pageKeys: this.keysOf(of, index) } : submission,
        this.now,
      )
      if (outcome._tag !== "Queued") throw new Error(`request ${index} is refused: ${outcome.detail}`)
      for (const [answer, request] of [outcome.request, ...outcome.request.forks].entries()) {
        this.live.set(request.id, { request, of, index, answer, outputs: [], bitmaps: [], ended: null })
        this.put(request)
      }
      this.checks.submitted([outcome.request, ...outcome.request.forks], this.now)
    }
  }

  private adjust(change: ScenarioChange): void {
    this.driver.adjust(inForce(change))
    this.changes++
  }

  private abort(inFlight: boolean): void {
    for (const { request, of, answer } of this.live.values()) {
      if (of.abortAfter >= 0 && answer !== of.abortAfter % of.answers) continue
      if (of.abortAfter >= 0 && of.abortInFlight === inFlight && of.at + of.abortAfter === this.step) {
        this.perform(this.driver.abort(request.id))
        this.driver.checkIntegrity()
      }
    }
  }

  private fail(): void {
    this.tick()
    if (this.driver.stepInFlight === 0) return
    this.failures++
    this.steps.length = 0
    this.checks.failed()
    this.runner.fail()
    this.perform(this.driver.stepFailed())
    this.driver.checkIntegrity()
  }

  private tick(): void {
    const actions = this.driver.tick(this.now)
    for (const request of actions.puts) this.checks.put(request)
    this.checks.planned(actions.plans, this.now)
    this.perform(actions)
  }

  /** Tells, when it is called, which requests have given way since now. */
  private preemptedSince(): () => ReadonlyArray<Request> {
    const before = new Map([...this.live.values()].map(({ request }) => [request, request.account.preemptions]))
    return () => [...before].filter(([one, count]) => one.account.preemptions > count).map(([one]) => one)
  }

  /** Plans, and runs the oldest step. */
  private work(): boolean {
    const { driver, scenario } = this
    this.planned = null
    this.tick()
    this.checkWorkConserved()
    driver.checkIntegrity()
    const plan = this.steps.shift()
    const worked = plan !== undefined
    if (worked) {
      const result = this.runner.step(plan)
      result.deviceMicros = plan.predictedMicros * scenario.slowness
      this.abort(true)
      this.now++
      this.checks.ran(plan, result)
      const preempted = this.preemptedSince()
      const done = driver.stepDone(result)
      // Forks of a prompt that gave way start over once their first tokens are here.
      for (const request of preempted()) this.checks.preempted(request)
      this.checks.committed(done.tokens.requests.slice(0, done.tokens.length))
      this.perform(done)
      if (this.step % scenario.pagesEvery === 0) this.fillPages()
      driver.checkIntegrity()
    }
    if (!worked) this.abort(true)
    for (const one of this.live.values()) if (one.ended === null) this.checkProgress(one)
    return worked
  }

  // ------------------------------------------------------------------------------------------- content of slots

  /** Token `position` of a prompt: the family's where it is shared, an earlier conversation's where it goes on from one. */
  private promptToken(of: ScenarioRequest, index: number, position: number): number {
    const before = this.scenario.requests[of.follows]
    if (before !== undefined && position < before.promptLength + before.maxTokens) {
      const output = position - before.promptLength
      return output < 0 ? this.promptToken(before, of.follows, position) : this.outputToken(of.follows, 0, output)
    }
    return position < of.shared ? of.family * 2000 + position : 10_000 + index * 2000 + position
  }

  private outputToken(index: number, answer: number, position: number): number {
    return 100_000 + (index + 20 * answer) * 2000 + position
  }

  private put(request: Request): void {
    const { of, index, outputs } = this.live.get(request.id)!
    const tokens = new Int32Array(request.promptLength + outputs.length)
    for (let i = 0; i < request.promptLength; i++) tokens[i] = this.promptToken(of, index, i)
    tokens.set(outputs, request.promptLength)
    const content = {
      key: request.id * 1000 + (this.contents++ % 1000),
      tokens,
      promptLength: request.promptLength,
      drops: request.drops,
      bitmaps: [...request.bitmaps],
    }
    this.runner.putContent(request.contentId, content)
    this.ownerOf.set(request.contentId, request.id)
  }

  /** A key for each full page: pages of equal tokens after equal tokens have equal ones. */
  private keysOf(of: ScenarioRequest, index: number, answer = 0, outputs = 0): Array<string> {
    const { pageSize } = this.scenario
    const keys: Array<string> = []
    let tokens = ""
    for (let at = 0; at < of.promptLength + outputs; at++) {
      const output = at - of.promptLength
      tokens += ` ${output < 0 ? this.promptToken(of, index, at) : this.outputToken(index, answer, output)}`
      if ((at + 1) % pageSize === 0) keys.push(hashOf(tokens))
    }
    return keys
  }

  private sampled(key: number, index: number) {
    const one = this.live.get(Math.floor(key / 1000))!
    const stop = !one.of.stopString && this.stopAt(one) === index
    return { token: this.outputToken(one.index, one.answer, index), stop }
  }

  /** Where an answer stops: each of a prompt's somewhere else. */
  private stopAt({ of, answer }: Live): number {
    return of.stopAt < 0 ? -1 : (of.stopAt + 5 * answer) % of.maxTokens
  }

  private onToken(request: Request, token: number): void {
    const one = this.live.get(request.id)!
    const position = request.outputs - 1
    if (one.ended !== null) throw new Error(`request ${request.id} gets a token after its end`)
    if (position !== one.outputs.length || token !== this.outputToken(one.index, one.answer, position)) {
      throw new Error(`request ${request.id} gets token ${token} as number ${position} after ${one.outputs.length}`)
    }
    one.outputs.push(token)
  }

  private findStop(request: Request): void {
    const one = this.live.get(request.id)!
    if (one.of.stopString && this.stopAt(one) === one.outputs.length - 1) this.perform(this.driver.finish(request.id))
  }

  private onFinished(request: Request, reason: FinishReason): void {
    const one = this.live.get(request.id)!
    if (one.ended !== null) throw new Error(`request ${request.id} ends twice`)
    if (reason === "error" && !this.served.has(request.id)) throw new Error(`request ${request.id} fails in the queue`)
    one.ended = reason
    this.checks.ended(request)
  }

  private fillPages(): void {
    for (const { request, of, index, answer, outputs, ended } of this.live.values()) {
      if (request.holdings.pageKeys.length === 0 || ended !== null || outputs.length === 0) continue
      const known = Math.floor((of.promptLength + outputs.length - 1) / this.scenario.pageSize)
      if (known <= request.holdings.pageKeys.length) continue
      const keys = this.keysOf(of, index, answer, outputs.length - 1)
      for (let page = request.holdings.pageKeys.length; page < known; page++)
        this.driver.pageFilled(request.id, keys[page]!)
    }
  }

  // ------------------------------------------------------------------------------------------------ properties

  /** In order of arrival, a plan without prefill leaves no one waiting who could be admitted. */
  private checkWorkConserved(): void {
    const { waiting, prefilling, memory } = this.driver.scheduler
    const first = waiting.at(0)
    if (this.driver.settings.policy.name !== "fcfs" || first === undefined || this.planned === null) return
    if (this.planned.items.length > 0 || prefilling.length > 0 || this.checks.turn() !== null) return
    if (memory.canAdmit(first, headroom(this.driver, first, this.driver.settings))) {
      throw new Error(`request ${first.id} waits, though it could be admitted and the step has no prefill`)
    }
  }

  private checkProgress(one: Live): void {
    const { request } = one
    for (const [segment, bitmap] of request.bitmaps.entries()) {
      const text = bitmap.join(" ")
      const first = (one.bitmaps[segment] ??= text)
      if (text !== first) throw new Error(`request ${request.id} has selected again after segment ${segment}`)
    }
    if (request.bitmaps.length < one.bitmaps.length) throw new Error(`request ${request.id} has forgotten a selection`)
  }

  private checkIdle(): void {
    const { driver, runner } = this
    const { pool, tree, reserved } = driver.scheduler.memory
    if (driver.running + driver.waiting > 0) {
      throw new Error(`idle with ${driver.running} running and ${driver.waiting} waiting`)
    }
    if (pool.used !== tree.slabs || reserved !== 0) {
      throw new Error(`idle with ${pool.used} slabs used, ${tree.slabs} cached, ${reserved} reserved`)
    }
    const { turns } = this.driver.scheduler.state
    if (turns["holders"].length + turns["paused"].length > 0) throw new Error("idle with somebody's turn not over")
    if (runner.openSlots > 0) throw new Error(`idle with ${runner.openSlots} slots open`)
    if (runner.storedContents > 0) throw new Error(`idle with ${runner.storedContents} contents stored`)
    if (runner.free !== pool.free) {
      throw new Error(`${runner.free} slabs are free for the executor, ${pool.free} by the books`)
    }
    for (const one of this.live.values()) {
      const { request, of, outputs, ended } = one
      const expected = ended === "length" ? request.maxTokens : ended === "stop" ? this.stopAt(one) + 1 : outputs.length
      const allowed = ended === "abort" ? of.abortAfter >= 0 : ended === "error" ? this.failures > 0 : true
      if (ended === null || !allowed || outputs.length !== expected) {
        throw new Error(`request ${request.id} ends with ${ended} after ${outputs.length} tokens of ${expected}`)
      }
    }
  }
}

const hashOf = (text: string): string => {
  let a = 0x811c9dc5
  let b = 0x2545f491
  for (let i = 0; i < text.length; i++) {
    a = Math.imul(a ^ text.charCodeAt(i), 0x01000193)
    b = Math.imul(b ^ text.charCodeAt(i), 0x85ebca6b) ^ (b >>> 13)
  }
  return `${a} ${b}`
}
