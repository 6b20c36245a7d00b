import { fc, test } from "@fast-check/vitest"
import { EventQueue } from "@uniprefill/simulator/EventQueue"
import { expect, it } from "vitest"

const events = fc.array(fc.tuple(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 0, max: 3 })), { maxLength: 300 })

test.prop({ events, popAfter: fc.array(fc.boolean(), { maxLength: 300 }) })(
  "gives events back by time, then class, then the order in which they were scheduled",
  ({ events: list, popAfter }) => {
    const queue = new EventQueue(2)
    const waiting: Array<{ time: number; eventClass: number; sequence: number }> = []
    const check = () => {
      waiting.sort((a, b) => a.time - b.time || a.eventClass - b.eventClass || a.sequence - b.sequence)
      const next = waiting.shift()!
      expect(queue.nextTime).toBe(next.time)
      queue.pop()
      expect([queue.time, queue.class, queue.first]).toEqual([next.time, next.eventClass, next.sequence])
    }
    for (const [sequence, [time, eventClass]] of list.entries()) {
      // Nothing happens before what has happened.
      const at = queue.time + time
      queue.push(at, eventClass, sequence, 0)
      waiting.push({ time: at, eventClass, sequence })
      if (popAfter[sequence] === true) check()
    }
    while (waiting.length > 0) check()
    expect(queue.size).toBe(0)
    expect(queue.nextTime).toBe(Number.POSITIVE_INFINITY)
  },
)

it("takes whole microseconds only", () => {
  const queue = new EventQueue()
  expect(() => queue.push(0.5, 0, 0, 0)).toThrow("got 0.5")
  expect(() => queue.push(-1, 0, 0, 0)).toThrow("got -1")
  queue.push(7, 0, 0, 0)
  queue.pop()
  expect(() => queue.push(6, 0, 0, 0)).toThrow("at least 7 µs, got 6")
})
