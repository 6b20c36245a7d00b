import { type Executor, type ExecutorError, greedy, type RequestContent } from "@uniprefill/executor/contract/Executor"
import { type DropSchedule, pToQ32 } from "@uniprefill/model/DropSchedule"
import { type Section, StepPlan } from "@uniprefill/scheduler/StepPlan"
import { Effect } from "effect"
import malformed from "./malformedPlans.json" with { type: "json" }
import { equal } from "./SameAnswer.ts"

/** `malformedPlans.json`, which executors in other languages are tested with too. */
const table = malformed as unknown as {
  readonly plans: ReadonlyArray<MalformedPlan>
  readonly states: Readonly<Record<string, ReadonlyArray<Sections>>>
  readonly contents: Readonly<Record<string, { length: number; drops: boolean; salt: number }>>
  readonly schedule: DropSchedule
  readonly model: Readonly<
    Record<"layers" | "hidden" | "intermediate" | "heads" | "kvHeads" | "headDim" | "vocab", number>
  >
  readonly executor: Readonly<Record<"pageSize" | "slabs" | "slots" | "maxRowsPerStep" | "maxTokens", number>>
}

type Sections = Partial<Record<Section, ReadonlyArray<number>>>

/** A plan that every executor refuses, and what the refusal must say. */
export interface MalformedPlan {
  readonly name: string
  /** The state of the executor, as a list of plans that are carried out first. */
  readonly after: string
  readonly sections: Sections
  /** The step's number, where it is not the next one. */
  readonly stepId?: number
  /** Section and record, as the refusal's first words. */
  readonly at: string
  readonly says: ReadonlyArray<string>
}

export const malformedPlans = table.plans
export const malformedModel = table.model
export const malformedSchedule = table.schedule
export const malformedExecutor = table.executor

/** Brings a fresh executor, made from the table's model, to a plan's state, and checks how it refuses the plan. */
export const expectRefusal = (
  executor: Executor["Service"],
  { after, sections, stepId, at, says }: MalformedPlan,
): Effect.Effect<void, ExecutorError> =>
  Effect.gen(function* () {
    for (const id of Object.keys(table.contents)) yield* executor.putContent(Number(id), contentOf(id))
    const before = table.states[after]!
    for (const [i, plan] of before.entries()) {
      yield* executor.enqueue(planOf(i + 1, plan))
      yield* executor.nextResult
    }
    const next = before.length + 1
    const used = stepId ?? next
    yield* executor.enqueue(planOf(used, sections))
    // A step behind the one that is refused fails with it.
    yield* executor.enqueue(planOf(used + 1, {}))
    const error = yield* Effect.orDie(Effect.flip(executor.nextResult))
    equal("refusal", [error.reason, error.operation], ["InvalidPlan", `step ${used}`])
    // One of several ranks says which it is.
    const said = error.detail.replace(/^rank \d+ of \d+ in step \d+: /, "")
    equal(`whether ${JSON.stringify(said)} begins with ${at}`, said.startsWith(at), true)
    for (const words of says) equal(`whether ${error.detail} says ${words}`, error.detail.includes(words), true)

    // Nothing is left of it but contents, and its number comes again.
    const fresh = 100
    yield* executor.putContent(fresh, contentOf("1"))
    const grants = [0, 1].flatMap((page) => [0, 0, page, 0, 2, 2 + page, 0, 1, 4 + page])
    yield* executor.enqueue(planOf(next, { opens: [0, fresh], grants, items: [0, 0, 128, 0, 1], samples: [0, 0] }))
    const result = yield* executor.nextResult
    equal("step and tokens", [result.stepId, result.tokens.length], [next, 3])
  })

const contentOf = (id: string): RequestContent => {
  const { length, drops, salt } = table.contents[id]!
  return {
    tokens: Int32Array.from({ length }, (_, i) => (7 * i + salt) % table.model.vocab),
    promptLength: length,
    pQ32: drops ? malformedSchedule.dropLayers.map(({ p }) => pToQ32(p)) : null,
    bitmaps: [],
    sampling: greedy,
    returnLogits: false,
    promptLogprobs: -1,
  }
}

const planOf = (stepId: number, sections: Sections): StepPlan => {
  const plan = new StepPlan()
  plan.clear(stepId)
  for (const [name, values] of Object.entries(sections)) plan[name as Section].pushAll(values)
  return plan
}
