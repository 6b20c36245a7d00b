import { denseSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import { Request } from "@uniprefill/scheduler/Request"
import { WaitingQueue } from "@uniprefill/scheduler/WaitingQueue"
import fc from "fast-check"
import { expect, it } from "vitest"
import { full, specOf } from "../../../test/simulation/Models.ts"

const layout = makeKvLayout(specOf([full]), denseSchedule, {
  pageSize: 64,
  kvElementBytes: 2,
  carryElementBytes: 2,
})
const requests = Array.from(
  { length: 600 },
  (_, id) => new Request(id, { promptLength: 1 + (id % 5), drops: false }, 1, false, layout, 0),
)

it("holds what a sorted list holds, whatever comes and goes", () => {
  const ids = fc.array(fc.integer({ min: 0, max: requests.length - 1 }), { maxLength: 800 })
  fc.assert(
    fc.property(ids, fc.boolean(), (toggled, startsFull) => {
      const queue = new WaitingQueue()
      const expected = new Set<number>()
      const toggle = (id: number) => {
        if (expected.delete(id)) queue.remove(requests[id]!)
        else {
          expected.add(id)
          queue.insert(requests[id]!)
        }
      }
      // From the front first: that is where the queue forgets its empty places.
      if (startsFull) for (const { id } of requests) toggle(id)
      if (startsFull) for (let id = 0; id < 400; id++) toggle(id)
      for (const id of toggled) toggle(id)
      const sorted = [...expected].toSorted((a, b) => a - b)
      expect(Array.from(queue, ({ id }) => id)).toEqual(sorted)
      expect(queue.length).toBe(sorted.length)
      expect(queue.at(0)?.id).toBe(sorted[0])
      expect(queue.at(sorted.length)).toBeUndefined()
      expect(queue.tokens).toBe(sorted.reduce((sum, id) => sum + requests[id]!.promptLength, 0))
    }),
  )
})
