import type { Executor, RequestContent } from "@uniprefill/executor/contract/Executor"
import { StepPlan } from "@uniprefill/scheduler/StepPlan"
import { resultSections, type StepResult } from "@uniprefill/scheduler/StepResult"
import { Effect } from "effect"

/** What an executor was given and what it answered, in order. */
export type LoggedEvent =
  | { readonly e: "put"; readonly id: number; readonly content: RequestContent }
  | { readonly e: "forget"; readonly id: number }
  | { readonly e: "plan"; readonly plan: StepPlan }
  | { readonly e: "result"; readonly sections: ReadonlyArray<Int32Array> }

/** The executor, with everything that goes in and out put into `log`. */
export const logged = (executor: Executor["Service"], log: Array<LoggedEvent>): Executor["Service"] => ({
  ...executor,
  putContent: (id, content) =>
    Effect.suspend(() => {
      // Its lists go on growing elsewhere.
      const copy = { ...content, tokens: content.tokens.slice(), bitmaps: [...content.bitmaps] }
      return Effect.tap(executor.putContent(id, content), () =>
        Effect.sync(() => log.push({ e: "put", id, content: copy })),
      )
    }),
  forgetContent: (id) =>
    Effect.suspend(() => {
      log.push({ e: "forget", id })
      return executor.forgetContent(id)
    }),
  enqueue: (plan) =>
    Effect.suspend(() => {
      const copy = new StepPlan()
      copy.assign(plan)
      log.push({ e: "plan", plan: copy })
      return executor.enqueue(plan)
    }),
  nextResult: Effect.tap(executor.nextResult, (result) =>
    Effect.sync(() => log.push({ e: "result", sections: sectionsOf(result) })),
  ),
})

/** Without what ranks say of the plan's bytes, which hold the step's number, and without times. */
const sectionsOf = (result: StepResult): ReadonlyArray<Int32Array> =>
  resultSections
    .filter((name) => name !== "ranks" && name !== "selectionMicros")
    .map((name) => result[name].data.slice(0, result[name].length))

/**
 * Gives a fresh executor the same contents and plans in the same order, and counts the results that are not the same, every bit,
 * but for the device's time. Requires a log that began with the executor, without failures.
 */
export const replayed = async (
  executor: Executor["Service"],
  log: ReadonlyArray<LoggedEvent>,
): Promise<{ readonly results: number; readonly differing: ReadonlyArray<number> }> => {
  let results = 0
  const differing: Array<number> = []
  let unanswered = 0
  for (const event of log) {
    switch (event.e) {
      case "put":
        await Effect.runPromise(executor.putContent(event.id, event.content))
        break
      case "forget":
        await Effect.runPromise(executor.forgetContent(event.id))
        break
      case "plan":
        await Effect.runPromise(executor.enqueue(event.plan))
        unanswered++
        break
      case "result": {
        const sections = sectionsOf(await Effect.runPromise(executor.nextResult))
        unanswered--
        if (!sections.every((section, i) => equalWords(section, event.sections[i]!))) differing.push(results)
        results++
      }
    }
  }
  for (; unanswered > 0; unanswered--) await Effect.runPromise(executor.nextResult)
  return { results, differing }
}

const equalWords = (a: Int32Array, b: Int32Array): boolean =>
  a.length === b.length && a.every((word, i) => word === b[i])
