import { TokenList } from "@uniprefill/scheduler/Actions"
import type { Request } from "@uniprefill/scheduler/Request"
import { GapHistogram } from "@uniprefill/simulator/metrics/GapHistogram"
import { RequestLog } from "@uniprefill/simulator/metrics/RequestLog"
import { TokenTimes } from "@uniprefill/simulator/metrics/TokenTimes"
import { workloadOf } from "@uniprefill/simulator/workload/Workload"
import fc from "fast-check"
import { expect, it } from "vitest"

const requests = 6

/** After how long a step ends, and whose tokens it brings, in which order: mostly those of the step before. */
const steps = fc.array(
  fc.record({
    micros: fc.integer({ min: 1, max: 50 }),
    owners: fc.option(fc.shuffledSubarray([0, 1, 2, 3, 4, 5]), { freq: 2 }),
  }),
  { minLength: 1, maxLength: 30 },
)

it("first tokens, last ones and gaps are those of each request's tokens, whoever moves, leaves or comes back", () => {
  fc.assert(
    fc.property(steps, (drawn) => {
      const row = { arrivalMicros: 0, promptTokens: 1, outputTokens: 100, maxTokens: 100 }
      const log = new RequestLog(
        workloadOf(
          "drawn",
          [],
          0,
          Array.from({ length: requests }, () => row),
        ),
      )
      const gaps = new GapHistogram()
      const times = new TokenTimes(log, gaps, (id) => id)
      const all = Array.from({ length: requests }, (_, id) => ({ id, outputs: 0 }))
      const seen = all.map((): Array<number> => [])
      let now = 0
      let owners: ReadonlyArray<number> = []
      for (const step of drawn) {
        now += step.micros
        owners = step.owners ?? owners
        const list = new TokenList()
        list.makeRoom(owners.length)
        for (const id of owners) {
          all[id]!.outputs++
          seen[id]!.push(now)
          list.push(all[id] as unknown as Request, 0, 0)
        }
        times.add(list, now)
      }
      times.flush()
      const between = seen.map((at) => at.slice(1).map((time, i) => time - at[i]!))
      const own = new GapHistogram()
      for (const gap of between.flat()) own.add(gap, 1)
      expect(gaps).toEqual(own)
      for (const [id, at] of seen.entries()) {
        if (at.length === 0) continue
        expect([log.firstToken[id], log.lastToken[id]]).toEqual([at[0], at.at(-1)])
        expect(log.maxGap[id]).toBe(Math.max(0, ...between[id]!))
      }
    }),
  )
})
