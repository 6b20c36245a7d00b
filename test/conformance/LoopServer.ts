import { greedy, type ExecutorInfo, type SamplingParameters, type SlotContent } from "@uniprefill/executor/Executor"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { CostModel } from "@uniprefill/scheduler/CostModel"
import { Driver, type DriverConfig } from "@uniprefill/scheduler/Driver"
import { fcfs } from "@uniprefill/scheduler/Policy"
import type { FinishReason, Request } from "@uniprefill/scheduler/Request"
import type { StepPlan } from "@uniprefill/scheduler/StepPlan"
import { SelectionFlag, type StepResult } from "@uniprefill/scheduler/StepResult"

/** Anything that carries out plans: the naive runner, or an Executor service run to its end. */
export interface StepRunner {
  readonly info: ExecutorInfo
  readonly openSlot: (content: SlotContent) => void | Promise<void>
  readonly closeSlot: (slot: number) => void | Promise<void>
  readonly step: (plan: StepPlan) => StepResult | Promise<StepResult>
}

export interface LoopRequest {
  readonly prompt: ArrayLike<number>
  readonly maxTokens: number
  /** p of each drop layer as Q32; null serves dense. */
  readonly pQ32: ReadonlyArray<bigint> | null
  readonly sampling?: Partial<SamplingParameters>
  /** Pages of this request are put into the prefix cache and looked for there. */
  readonly cached?: boolean
  /** The step before which it is submitted. */
  readonly at?: number
  /** The step during which it is aborted. */
  readonly abortAt?: number | undefined
}

export interface LoopAnswer {
  readonly tokens: Array<number>
  /** The logits behind each token, as f32 bits. */
  readonly logits: Array<Int32Array>
  bitmaps: ReadonlyArray<Uint32Array>
  kept: ReadonlyArray<number>
  /** Selections that kept everything because a score was not finite. */
  fallbacks: number
  reason: FinishReason | null
}

/** Counts rows, so that budgets cut prompts at chosen places: what a step costs is what the numbers below say. */
export const rowCost: CostModel = {
  stepMicros: (load) => {
    let rows = load.decodeRows
    for (let s = 0; s < load.rows.length; s++) rows += load.rows[s]!
    return rows
  },
}

export interface LoopOutcome {
  readonly answers: ReadonlyArray<LoopAnswer>
  readonly driver: Driver
  readonly steps: number
}

/** Serves requests to their end through the production loop and a runner. Integrity is checked at every step. */
export const serve = async (
  runner: StepRunner,
  schedule: DropSchedule,
  requests: ReadonlyArray<LoopRequest>,
  over: Partial<DriverConfig> = {},
  altered: (plan: StepPlan) => void = () => {},
): Promise<LoopOutcome> => {
  const { info } = runner
  const answers = requests.map((): LoopAnswer => ({
    tokens: [],
    logits: [],
    bitmaps: [],
    kept: [],
    fallbacks: 0,
    reason: null,
  }))
  const indexOf = new Map<number, number>()
  const orders: Array<(() => void | Promise<void>) | StepPlan> = []
  const slotOwner = new Map<number, number>()
  const pagesFilled = new Map<number, number>()
  const driver = new Driver(
    {
      layout: info.layout,
      schedule,
      slabs: info.slabs,
      slots: info.slots,
      stateSlots: info.stateSlots,
      maxRowsPerStep: info.maxRowsPerStep,
      costModel: rowCost,
      policy: fcfs,
      stepBudgetMicros: 1_000_000,
      idleStepBudgetMicros: 1_000_000,
      maxPrefillWaitMicros: 1_000_000,
      protectAfter: 3,
      protectAfterMicros: 1_000_000,
      maxStepsInFlight: 1,
      maxModelLen: info.maxTokens,
      maxWaiting: 1000,
      maxWaitingTokens: 1_000_000,
      ...over,
    },
    {
      openSlot: (request) => {
        const index = indexOf.get(request.id)!
        const { prompt, pQ32, sampling } = requests[index]!
        const content: SlotContent = {
          slot: request.slot,
          tokens: Int32Array.from([...Array.from(prompt), ...answers[index]!.tokens]),
          promptLength: request.promptLength,
          pQ32: request.drops ? pQ32 : null,
          bitmaps: [...request.bitmaps],
          sampling: { ...greedy, ...sampling },
          returnLogits: true,
        }
        orders.push(() => {
          slotOwner.set(content.slot, index)
          return runner.openSlot(content)
        })
      },
      closeSlot: (slot) => {
        orders.push(() => runner.closeSlot(slot))
      },
      submit: (plan) => {
        orders.push(plan)
      },
      token: (request, token, index) => {
        const { tokens } = answers[indexOf.get(request.id)!]!
        if (tokens.length !== index) throw new Error(`request ${request.id}: token ${index} after ${tokens.length}`)
        tokens.push(token)
      },
      selected: (request, _segment, _bitmap, _kept, flags) => {
        if ((flags & SelectionFlag.fallback) !== 0) answers[indexOf.get(request.id)!]!.fallbacks++
      },
      finished: (request: Request, reason) => {
        const answer = answers[indexOf.get(request.id)!]!
        answer.reason = reason
        answer.bitmaps = [...request.bitmaps]
        answer.kept = [...request.keptRows]
      },
    },
  )

  const takeLogits = ({ logits }: StepResult): void => {
    for (let i = 0; i < logits.length;) {
      const count = logits.data[i + 1]!
      const answer = answers[slotOwner.get(logits.data[i]!)!]!
      if (answer.reason === null) answer.logits.push(logits.data.slice(i + 2, i + 2 + count))
      i += 2 + count
    }
  }

  let step = 0
  for (let idle = 0; idle < 2 || step <= lastArrival(requests); step++) {
    for (const [index, request] of requests.entries()) {
      if ((request.at ?? 0) !== step) continue
      const outcome = driver.submit(
        {
          promptLength: request.prompt.length,
          maxTokens: request.maxTokens,
          drops: request.pQ32 !== null,
          pageKeys: request.cached === true ? pageKeys(request.prompt, info.layout.pageSize) : undefined,
        },
        step,
      )
      if (outcome._tag !== "Queued") throw new Error(outcome.detail)
      indexOf.set(outcome.request.id, index)
    }
    driver.tick(step)
    driver.checkIntegrity()
    let ran = false
    while (orders.length > 0 && !ran) {
      const order = orders.shift()!
      if (typeof order === "function") {
        await order()
        continue
      }
      altered(order)
      const result = await runner.step(order)
      for (const [id, index] of indexOf) if (requests[index]!.abortAt === step) driver.abort(id)
      takeLogits(result)
      driver.stepDone(result)
      for (const [id, index] of indexOf) {
        const { prompt, cached } = requests[index]!
        const { tokens, reason } = answers[index]!
        if (cached !== true || reason !== null) continue
        // The last token sampled is not in any page yet.
        const known = pageKeys([...Array.from(prompt), ...tokens.slice(0, -1)], info.layout.pageSize)
        const filled = pagesFilled.get(id) ?? Math.floor(prompt.length / info.layout.pageSize)
        for (let page = filled; page < known.length; page++) driver.pageFilled(id, known[page]!)
        pagesFilled.set(id, Math.max(filled, known.length))
      }
      driver.checkIntegrity()
      ran = true
    }
    idle = ran ? 0 : idle + 1
    if (step > 100_000) throw new Error("not idle after 100000 steps")
  }
  const { pool, cache, reserved } = driver.scheduler.memory
  if (driver.running + driver.waiting + reserved !== 0 || pool.used !== cache.idleSlabs) {
    throw new Error(`left behind: ${driver.running} running, ${driver.waiting} waiting, ${pool.used} slabs`)
  }
  return { answers, driver, steps: step }
}

/** A key for every full page: the tokens up to its end. */
const pageKeys = (tokens: ArrayLike<number>, pageSize: number): Array<string> => {
  const all = Array.from(tokens)
  return Array.from({ length: Math.floor(all.length / pageSize) }, (_, page) =>
    all.slice(0, (page + 1) * pageSize).join(" "),
  )
}

const lastArrival = (requests: ReadonlyArray<LoopRequest>): number => Math.max(0, ...requests.map(({ at }) => at ?? 0))
