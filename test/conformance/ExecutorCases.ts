import { pToQ32 } from "@uniprefill/model/DropSchedule"
import { type LoopAnswer, type LoopRequest, separate, worstCase } from "./LoopServer.ts"
import type { Machine } from "./Machine.ts"
import { promptOf } from "./Prompts.ts"
import { equal } from "./SameAnswer.ts"
import { type LoggedEvent, replayed } from "./StepLog.ts"
import { floatsOf } from "./TeacherForcing.ts"

/**
 * What every executor must do, as functions that throw where it does not: the suite that CI runs on the CPU and test/gpu/conformance.ts
 * on a CUDA device. What "the same answer" means there is the judge's to say: on the CPU every bit.
 */
export interface Judge {
  /** `answer` is what `request`, one answer's, gets; `alone` is what it got by itself, its prompt in one step. */
  readonly same: (machine: Machine, request: LoopRequest, answer: LoopAnswer, alone: LoopAnswer) => Promise<void>
  /** Of logits that two ways of computing the same rows gave. */
  readonly sameLogits: (logits: ReadonlyArray<Int32Array>, others: ReadonlyArray<Int32Array>) => void
}

export type ExecutorCase = (machine: Machine, judge: Judge) => Promise<void>

/** p of every drop layer. */
const at = ({ schedule }: Machine, p: number): ReadonlyArray<bigint> => schedule.dropLayers.map(() => pToQ32(p))

/** Of lengths around pages, blocks and forced rows, dense and dropping, greedy and drawn. */
const mixed = (machine: Machine): ReadonlyArray<LoopRequest> =>
  [1, 63, 130, 256, 300, 777, 1024, 1500].map((length, i) => ({
    prompt: promptOf(length, machine.vocab, 10 + i, i % 2 === 0 ? 0 : 200),
    maxTokens: 8 + 5 * i,
    pQ32: i % 3 === 0 ? null : at(machine, 0.4 + 0.1 * (i % 4)),
    sampling: { temperature: i % 2 === 0 ? 0 : 0.9, seed: BigInt(i) },
    at: 2 * (i % 4),
    answers: i === 4 ? 3 : 1,
  }))

/** Every answer of a request beside the requests that ask for them alone. */
const answersOf = (first: LoopAnswer): ReadonlyArray<LoopAnswer> => [first, ...first.others]

const aloneOf = async (machine: Machine, request: LoopRequest): Promise<ReadonlyArray<LoopAnswer>> => {
  const answers: Array<LoopAnswer> = []
  for (const single of separate(request)) answers.push((await machine.run([single])).answers[0]!)
  return answers
}

/** Serves requests together and compares every answer with what it is alone. Gives preemptions and prefix hits. */
const together = async (
  machine: Machine,
  judge: Judge,
  requests: ReadonlyArray<LoopRequest>,
  options: Parameters<Machine["run"]>[1],
): Promise<{ readonly preemptions: number; readonly prefixHits: number; readonly prefillRows: number }> => {
  const { answers, driver, prefillRows } = await machine.run(requests, options)
  for (const [i, request] of requests.entries()) {
    const alone = await aloneOf(machine, request)
    for (const [n, single] of separate(request).entries()) {
      await judge.same(machine, single, answersOf(answers[i]!)[n]!, alone[n]!)
    }
  }
  const { preemptions, memory } = driver.scheduler
  return { preemptions, prefixHits: memory.prefixHits, prefillRows }
}

const budgets = (micros: number) => ({
  stepBudgetMicros: micros,
  idleStepBudgetMicros: micros,
  maxPrefillWaitMicros: 3,
})

export const executorCases: Readonly<Record<string, ExecutorCase>> = {
  "chunked, batched and forked answers are those of requests alone": async (machine, judge) => {
    await together(machine, judge, mixed(machine), { ...budgets(300), maxStepsInFlight: 1 })
  },

  "so they are with small chunks and two steps in flight": async (machine, judge) => {
    await together(machine, judge, mixed(machine), { ...budgets(70), maxStepsInFlight: 2 })
  },

  "so they are when memory is short and requests are preempted": async (machine, judge) => {
    const requests = [0, 1, 2, 3, 4].map((i): LoopRequest => ({
      prompt: promptOf(i === 2 ? 300 : 120 + i, machine.vocab, 40 + i),
      maxTokens: 400,
      pQ32: i === 2 ? at(machine, 0.5) : null,
    }))
    const { driver } = await machine.run([])
    // Several are admitted, and cannot all grow to their ends.
    const slabs = Math.max(...requests.map((request) => worstCase(driver, request)))
    const { preemptions } = await together(machine, judge, requests, {
      ...budgets(300),
      slabs,
      maxStepsInFlight: 2,
      headroomTokens: 0,
    })
    equal("whether anything was preempted", preemptions > 0, true)
  },

  "a prefix found in the cache changes no answer": async (machine, judge) => {
    for (const pQ32 of [null, at(machine, 0.5)]) {
      const request = (seed: number, when: number): LoopRequest => ({
        prompt: promptOf(1024, machine.vocab, seed, 900),
        maxTokens: 20,
        pQ32,
        at: when,
        cached: true,
      })
      const { prefixHits } = await together(machine, judge, [request(1, 0), request(2, 40)], { resumeEvery: 128 })
      equal("prompt rows found", prefixHits, 896)
    }
  },

  "a prompt of several answers is computed once, and a conversation goes on from them": async (machine, judge) => {
    for (const pQ32 of [null, at(machine, 0.5)]) {
      const first: LoopRequest = {
        prompt: promptOf(1000, machine.vocab, 5),
        maxTokens: 100,
        pQ32,
        answers: 3,
        sampling: { temperature: 40, seed: 9n },
        cached: true,
      }
      const { answers } = await machine.run([first])
      equal("different answers", new Set(answersOf(answers[0]!).map(({ tokens }) => tokens.join(" "))).size, 3)
      const next: LoopRequest = {
        ...first,
        prompt: [...Array.from(first.prompt), ...answers[0]!.tokens, 5, 6, 7],
        answers: 1,
        at: 160,
      }
      for (const maxStepsInFlight of [1, 2] as const) {
        const { prefixHits, prefillRows } = await together(machine, judge, [first, next], {
          maxStepsInFlight,
          resumeEvery: 128,
        })
        equal("rows computed and found", prefillRows + prefixHits, 1000 + 1103)
        // Recurrent states are kept at places of the prompt alone.
        equal("prompt rows found", prefixHits, machine.hasStates ? 896 : 1024)
      }
    }
  },

  "rows are dropped, and more at each selection": async (machine) => {
    const prompt = promptOf(1500, machine.vocab, 3)
    const { answers } = await machine.run([{ prompt, maxTokens: 2, pQ32: at(machine, 0.5) }])
    const { kept } = answers[0]!
    equal("sets", kept.length, machine.schedule.dropLayers.length + 1)
    for (let i = 1; i < kept.length; i++) equal(`whether ${kept.join(" ")} descend`, kept[i]! < kept[i - 1]!, true)
  },

  "p = 1 keeps every block and is dense": async (machine, judge) => {
    const prompt = promptOf(1500, machine.vocab, 3)
    const of = async (pQ32: ReadonlyArray<bigint> | null) => {
      const { answers } = await machine.run([{ prompt, maxTokens: 8, pQ32, sampling: { allowedTokenIds: [5] } }])
      return answers[0]!
    }
    const all = await of(at(machine, 1))
    equal("kept", all.kept, [1500, ...machine.schedule.dropLayers.map(() => 1500)])
    judge.sameLogits(all.logits, (await of(null)).logits)
  },

  "prompts up to sink + lastQ keep every row, and logits are finite at any length": async (machine) => {
    for (const length of [1, 2, 63, 64, 65, 127, 128, 129, 256, 257]) {
      const prompt = promptOf(length, machine.vocab, 3)
      const { answers } = await machine.run([{ prompt, maxTokens: 8, pQ32: at(machine, 0.1) }])
      const { kept, logits } = answers[0]!
      equal(
        "sets smaller than the prompt",
        kept.filter((rows) => length <= 256 && rows !== length),
        [],
      )
      equal(
        "whether all are finite",
        logits.every((row) => floatsOf(row).every(Number.isFinite)),
        true,
      )
    }
  },

  "the same plans again give the same results, every bit": async (machine) => {
    const log: Array<LoggedEvent> = []
    const options = { ...budgets(200), maxStepsInFlight: 2 as const }
    await machine.run(mixed(machine), { ...options, log })
    const found = await machine.use((executor) => replayed(executor, log))
    equal("steps that differ", found.differing, [])
    equal("steps", found.results, log.filter(({ e }) => e === "result").length)
  },
}
