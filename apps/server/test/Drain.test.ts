import { Engine } from "@uniprefill/engine/Engine"
import { greedy } from "@uniprefill/executor/contract/Executor"
import { Effect, Exit, Fiber, Logger, Stream } from "effect"
import { untilDrained } from "uniprefill/http/Drain"
import { expect, test } from "vitest"
import { FakeEngine } from "./FakeEngine.ts"

const request = {
  requestId: "a",
  prompt: Int32Array.of(5),
  maxTokens: 20,
  sampling: greedy,
  stop: [],
  includeStop: false,
  skipSpecialTokens: true,
  drop: true,
  minP: undefined,
  priority: 0,
}

/** Interrupts a waiting server while an answer of 200 ms runs. */
const interruptWhileRunning = (seconds: number) => {
  const engine = new FakeEngine()
  engine.delayMs = 10
  const logs: Array<string> = []
  const logger = Logger.make<unknown, void>(({ message }) => void logs.push(String(message)))
  const program = Effect.gen(function* () {
    const server = yield* Effect.forkChild(untilDrained(seconds, () => {}))
    yield* Effect.sleep(5)
    const service = yield* Engine
    const answer = yield* Effect.forkChild(
      Effect.scoped(Effect.flatMap(service.generate(request), ([events]) => Stream.runCollect(events))),
    )
    yield* Effect.sleep(20)
    const exit = yield* Fiber.interrupt(server).pipe(Effect.andThen(Fiber.await(server)))
    return { interrupted: Exit.hasInterrupts(exit), running: engine.running.size, answer: answer.pollUnsafe(), logs }
  })
  return Effect.runPromise(program.pipe(Effect.provide(engine.layer), Effect.provide(Logger.layer([logger]))))
}

test("a running answer finishes before the server ends", async () => {
  const { interrupted, running, logs } = await interruptWhileRunning(3600)
  expect({ interrupted, running }).toEqual({ interrupted: true, running: 0 })
  expect(logs).toEqual(["draining: a second signal stops at once"])
})

test("but is waited for no longer than the deadline", async () => {
  const { running, answer, logs } = await interruptWhileRunning(0.05)
  expect({ running, ended: answer?._tag }).toEqual({ running: 0, ended: "Success" })
  expect(logs).toEqual(["draining: a second signal stops at once", "not drained in time: requests are ended"])
})
