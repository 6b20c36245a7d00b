import { fc, test } from "@fast-check/vitest"
import { EventQueue } from "@uniprefill/simulator/EventQueue"
import { expect, it } from "vitest"

const events = fc.array(fc.tuple(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 0, max: 3 })), { maxLength: 300 })

test.prop({ events, popAfter: fc.array(fc.boolean(), { maxLength: 300 }) })(
  "gives events back by time, then class, then the order in which they were scheduled",
  ({ events: list, popAfter }) => {
    const queue = new EventQueue()
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

it("keeps the order of thousands of distant events among near ones", () => {
  const queue = new EventQueue()
  for (let i = 0; i < 5000; i++) queue.push(1_000_000 - (i % 977), i % 3, i, 0)
  for (let i = 0; i < 2000; i++) {
    queue.push(queue.time + 10, 0, -i, 0)
    queue.pop()
    expect([queue.time, queue.first]).toEqual([10 * (i + 1), -i || 0])
  }
  let before = [0, 0, 0]
  for (let left = 5000; left > 0; left--) {
    expect(queue.size).toBe(left)
    queue.pop()
    const event = [queue.time, queue.class, queue.first]
    expect(before[0]! - event[0]! || before[1]! - event[1]! || before[2]! - event[2]!).toBeLessThan(0)
    before = event
  }
})

it("takes whole microseconds only", () => {
  const queue = new EventQueue()
  expect(() => queue.push(0.5, 0, 0, 0)).toThrow("got 0.5")
  expect(() => queue.push(-1, 0, 0, 0)).toThrow("got -1")
  queue.push(7, 0, 0, 0)
  queue.pop()
  expect(() => queue.push(6, 0, 0, 0)).toThrow("from 7 to 1125899906842624 µs, got 6")
})
