import { Effect, Layer } from "effect"
import { Executor, ExecutorError } from "../contract/Executor.ts"
import { StepQueue } from "../contract/StepQueue.ts"
import { ReferenceRunner, type ReferenceRunnerOptions } from "./ReferenceRunner.ts"

/** The Executor service over a {@link ReferenceRunner}: whole engines in tests, without a device and without files. */
export const layerReference = (options: ReferenceRunnerOptions): Layer.Layer<Executor> =>
  Layer.sync(Executor, () => fromRunner(new ReferenceRunner(options)))

/** The service over a runner that the test also holds, to look at its memory. A step is computed when it is asked for. */
export const fromRunner = (runner: ReferenceRunner): Executor["Service"] => {
  const steps = new StepQueue(runner.info.maxStepsInFlight)
  return {
    info: runner.info,
    putContent: (id, content) => attempt(`put content ${id}`, () => runner.putContent(id, content)),
    forgetContent: (id) => Effect.sync(() => runner.forgetContent(id)),
    enqueue: (plan) => attempt(`enqueue step ${plan.stepId}`, () => steps.push(plan)),
    nextResult: Effect.flatMap(steps.next, (plan) =>
      attempt(`step ${plan.stepId}`, () => {
        try {
          return runner.step(plan)
        } catch (cause) {
          steps.clear()
          throw cause
        }
      }),
    ),
    lost: Effect.never,
  }
}

const attempt = <A>(operation: string, run: () => A): Effect.Effect<A, ExecutorError> =>
  Effect.try({
    try: run,
    catch: (error) =>
      error instanceof ExecutorError
        ? error
        : new ExecutorError({ reason: "Internal", operation, detail: String(error) }),
  })
