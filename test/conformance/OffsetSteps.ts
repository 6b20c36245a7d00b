import type { Executor } from "@uniprefill/executor/contract/Executor"
import { StepPlan } from "@uniprefill/scheduler/StepPlan"
import { Effect } from "effect"

/** The executor seen by another loop: step numbers and content ids go on from where the loop before left them. */
export const offsetSteps = (
  executor: Executor["Service"],
  offset: { readonly steps: number; readonly contents: number },
): Executor["Service"] & { readonly last: () => { readonly steps: number; readonly contents: number } } => {
  let { steps, contents } = offset
  const shifted = (id: number) => {
    contents = Math.max(contents, id + offset.contents)
    return id + offset.contents
  }
  return {
    ...executor,
    last: () => ({ steps, contents }),
    putContent: (id, content) => executor.putContent(shifted(id), content),
    forgetContent: (id) => executor.forgetContent(shifted(id)),
    enqueue: (plan) => {
      const copy = new StepPlan()
      copy.assign(plan)
      copy.stepId = steps = plan.stepId + offset.steps
      for (let i = 1; i < copy.opens.length; i += 2) copy.opens.data[i] = shifted(copy.opens.data[i]!)
      return executor.enqueue(copy)
    },
    nextResult: Effect.map(executor.nextResult, (result) => {
      result.stepId -= offset.steps
      return result
    }),
  }
}
