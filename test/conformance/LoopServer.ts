import { type Executor, greedy, type SamplingParameters } from "@uniprefill/executor/contract/Executor"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { CostModel } from "@uniprefill/scheduler/CostModel"
import type { Actions } from "@uniprefill/scheduler/Actions"
import { Driver, type DriverConfig } from "@uniprefill/scheduler/Driver"
import { fcfs } from "@uniprefill/scheduler/Policy"
import type { FinishReason, Request } from "@uniprefill/scheduler/Request"
import { ItemField, sectionWidths, type StepPlan } from "@uniprefill/scheduler/StepPlan"
import { SelectionFlag, type StepResult } from "@uniprefill/scheduler/StepResult"
import { Effect } from "effect"

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
  /** Answers to the prompt, each sampled with a seed of its own: `sampling.seed` and those after it. */
  readonly answers?: number
  /** Log probabilities of the prompt's tokens are asked for, of so many besides; of requests served dense. */
  readonly promptLogprobs?: number
  /** The step during which an answer, the first unless `abortAnswer` says another, is aborted. */
  readonly abortAt?: number | undefined
  readonly abortAnswer?: number
}

export interface LoopAnswer {
  readonly tokens: Array<number>
  /** The logits behind each token, as f32 bits. */
  readonly logits: Array<Int32Array>
  bitmaps: ReadonlyArray<Uint32Array>
  kept: ReadonlyArray<number>
  /** Rows of the prompt whose next token's log probability came. */
  promptRows: number
  /** Selections that kept everything because a score was not finite. */
  fallbacks: number
  reason: FinishReason | null
  /** The answers to the same prompt after this one. */
  readonly others: ReadonlyArray<LoopAnswer>
}

/** An answer on its way. */
interface Running {
  readonly of: LoopRequest
  /** Which of the request's answers it is. */
  readonly number: number
  readonly answer: LoopAnswer
  /** Pages whose keys the loop has been told. */
  pagesFilled: number
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
  /** Rows of prompts and replayed output computed in the first segment. */
  readonly prefillRows: number
}

/** Serves requests to their end through the production loop and an executor. Integrity is checked at every step. */
export const serve = async (
  executor: Executor["Service"],
  schedule: DropSchedule,
  requests: ReadonlyArray<LoopRequest>,
  over: Partial<DriverConfig> = {},
  altered: (plan: StepPlan) => void = () => {},
): Promise<LoopOutcome> => {
  const { info } = executor
  const answers = requests.map(({ answers: count = 1 }) =>
    emptyAnswer(Array.from({ length: count - 1 }, () => emptyAnswer([]))),
  )
  const running = new Map<number, Running>()
  const driver = new Driver({
    layout: info.layout,
    schedule,
    slabs: info.slabs,
    slots: info.slots,
    stateSlots: info.stateSlots,
    chunkRows: info.chunkRows,
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
  })

  const put = (request: Request) => {
    const owner = running.get(request.id)!
    const { prompt, pQ32, sampling } = owner.of
    return Effect.runPromise(
      executor.putContent(request.contentId, {
        tokens: Int32Array.from([...Array.from(prompt), ...owner.answer.tokens]),
        promptLength: request.promptLength,
        pQ32: request.drops ? pQ32 : null,
        bitmaps: [...request.bitmaps],
        sampling: { ...greedy, ...sampling, seed: (sampling?.seed ?? greedy.seed) + BigInt(owner.number) },
        returnLogits: true,
        promptLogprobs: owner.of.promptLogprobs ?? -1,
      }),
    )
  }

  const perform = async ({ selections, tokens, finished, forgets, puts, plans }: Actions): Promise<void> => {
    for (const { request, flags } of selections) {
      if ((flags & SelectionFlag.fallback) !== 0) running.get(request.id)!.answer.fallbacks++
    }
    for (let i = 0; i < tokens.length; i++) {
      const { id, outputs } = tokens.requests[i]!
      const own = running.get(id)!.answer.tokens
      if (own.length !== outputs - 1) throw new Error(`request ${id}: token ${outputs} after ${own.length}`)
      own.push(tokens.tokens.data[i]!)
    }
    for (const { request, reason } of finished) {
      const { answer } = running.get(request.id)!
      answer.reason = reason
      answer.bitmaps = [...request.bitmaps]
      answer.kept = [...request.keptRows]
    }
    for (const id of forgets) await Effect.runPromise(executor.forgetContent(id))
    for (const request of puts) await put(request)
    for (const plan of plans) {
      altered(plan)
      prefillRows += firstSegmentRows(plan)
      await Effect.runPromise(executor.enqueue(plan))
    }
  }

  const takeLogits = ({ logits }: StepResult): void => {
    for (let i = 0; i < logits.length;) {
      const count = logits.data[i + 1]!
      const { answer } = running.get(driver.scheduler.requestAt(logits.data[i]!)!.id)!
      if (answer.reason === null) answer.logits.push(logits.data.slice(i + 2, i + 2 + count))
      i += 2 + count
    }
  }

  const countPromptRows = ({ promptLogprobs }: StepResult): void => {
    for (let i = 0; i < promptLogprobs.length; i += 3 + 2 * promptLogprobs.data[i + 2]!)
      running.get(driver.scheduler.requestAt(promptLogprobs.data[i]!)!.id)!.answer.promptRows++
  }

  let step = 0
  let prefillRows = 0
  for (let idle = 0; idle < 2 || step <= lastArrival(requests); step++) {
    for (const [index, request] of requests.entries()) {
      if ((request.at ?? 0) !== step) continue
      const outcome = driver.submit(
        {
          promptLength: request.prompt.length,
          maxTokens: request.maxTokens,
          answers: request.answers,
          drops: request.pQ32 !== null,
          pageKeys: request.cached === true ? pageKeys(request.prompt, info.layout.pageSize) : undefined,
        },
        step,
      )
      if (outcome._tag !== "Queued") throw new Error(outcome.detail)
      const answer = answers[index]!
      const pagesFilled = Math.floor(request.prompt.length / info.layout.pageSize)
      for (const [number, { id }] of [outcome.request, ...outcome.request.forks].entries()) {
        running.set(id, {
          of: request,
          number,
          answer: number === 0 ? answer : answer.others[number - 1]!,
          pagesFilled,
        })
      }
      for (const one of [outcome.request, ...outcome.request.forks]) await put(one)
    }
    await perform(driver.tick(step))
    driver.checkIntegrity()
    const ran = driver.stepsInFlight > 0
    if (ran) {
      const result = await Effect.runPromise(executor.nextResult)
      // Costs are counted in rows here; corrected by what this machine took, prompts would be cut anew in every run.
      result.deviceMicros = 0
      for (const [id, { of, number }] of running) {
        if (of.abortAt === step && number === (of.abortAnswer ?? 0)) await perform(driver.abort(id))
      }
      takeLogits(result)
      countPromptRows(result)
      await perform(driver.stepDone(result))
      for (const [id, owner] of running) {
        const { prompt, cached } = owner.of
        const { tokens, reason } = owner.answer
        if (cached !== true || reason !== null) continue
        // The last token sampled is not in any page yet.
        const known = pageKeys([...Array.from(prompt), ...tokens.slice(0, -1)], info.layout.pageSize)
        while (owner.pagesFilled < known.length) driver.pageFilled(id, known[owner.pagesFilled++]!)
      }
      driver.checkIntegrity()
    }
    idle = ran ? 0 : idle + 1
    if (step > 100_000) throw new Error("not idle after 100000 steps")
  }
  const { pool, tree, reserved } = driver.scheduler.memory
  if (driver.running + driver.waiting + reserved !== 0 || pool.used !== tree.idleSlabs) {
    throw new Error(`left behind: ${driver.running} running, ${driver.waiting} waiting, ${pool.used} slabs`)
  }
  return { answers, driver, steps: step, prefillRows }
}

const emptyAnswer = (others: ReadonlyArray<LoopAnswer>): LoopAnswer => ({
  tokens: [],
  logits: [],
  bitmaps: [],
  kept: [],
  promptRows: 0,
  fallbacks: 0,
  reason: null,
  others,
})

const firstSegmentRows = ({ items: { data, length } }: StepPlan): number => {
  let rows = 0
  for (let i = 0; i < length; i += sectionWidths.items) {
    if (data[i + ItemField.firstSegment] === 0) rows += data[i + ItemField.rows]!
  }
  return rows
}

/** A request's answers as requests of their own, at once and undisturbed. */
export const separate = (request: LoopRequest): ReadonlyArray<LoopRequest> =>
  Array.from({ length: request.answers ?? 1 }, (_, i) => ({
    ...request,
    answers: 1,
    sampling: { ...request.sampling, seed: (request.sampling?.seed ?? greedy.seed) + BigInt(i) },
    at: 0,
    abortAt: undefined,
    cached: false,
  }))

/** Slabs that a request with all its answers may need, which is queued to find out. */
export const worstCase = (driver: Driver, { prompt, maxTokens, answers, pQ32 }: LoopRequest): number => {
  const outcome = driver.submit({ promptLength: prompt.length, maxTokens, answers, drops: pQ32 !== null }, 0)
  if (outcome._tag !== "Queued") throw new Error(outcome.detail)
  return driver.scheduler.memory.worstCase(outcome.request)
}

/** A key for every full page: the tokens up to its end. */
const pageKeys = (tokens: ArrayLike<number>, pageSize: number): Array<string> => {
  const all = Array.from(tokens)
  return Array.from({ length: Math.floor(all.length / pageSize) }, (_, page) =>
    all.slice(0, (page + 1) * pageSize).join(" "),
  )
}

const lastArrival = (requests: ReadonlyArray<LoopRequest>): number => Math.max(0, ...requests.map(({ at }) => at ?? 0))
