import { StepLoad } from "@uniprefill/scheduler/StepLoad"
import { WindowKeys } from "@uniprefill/scheduler/WindowKeys"
import fc from "fast-check"
import { expect, it } from "vitest"

it("counts min(window, keys) of every row, whoever comes, goes and grows", () => {
  const step = fc.record({
    joins: fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 3 }),
    leaves: fc.array(fc.nat(), { maxLength: 2 }),
  })
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 20 }), fc.array(step, { maxLength: 60 }), (window, steps) => {
      const counted = new WindowKeys(window)
      const rows: Array<number> = []
      for (const { joins, leaves } of steps) {
        for (const keys of joins) {
          counted.join(keys)
          rows.push(keys)
        }
        for (const at of leaves) {
          if (rows.length === 0) continue
          counted.leave(rows.splice(at % rows.length, 1)[0]!)
        }
        counted.advance()
        for (const i of rows.keys()) rows[i]!++
        expect(counted.sum).toBe(rows.reduce((sum, keys) => sum + Math.min(window, keys), 0))
      }
    }),
  )
})

it("a prefill row sees no more than the window, and taking a piece away leaves what was there", () => {
  const piece = fc.record({ first: fc.nat(300), rows: fc.integer({ min: 1, max: 200 }) })
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 256 }), fc.array(piece, { maxLength: 5 }), (window, pieces) => {
      const load = new StepLoad(1, [window])
      let pairs = 0
      for (const { first, rows } of pieces) {
        load.addRows(1, 0, first, rows, first + rows, 0)
        for (let row = first; row < first + rows; row++) pairs += Math.min(window, row + 1)
      }
      expect(load.windowPairs[0]).toBe(pairs)
      for (const { first, rows } of pieces) load.addRows(-1, 0, first, rows, first + rows, 0)
      expect([load.windowPairs[0], load.pairs[0]]).toEqual([0, 0])
    }),
  )
})

it("a model without windows counts none", () => {
  const load = new StepLoad(2, [0, 0])
  load.addRows(1, 1, 0, 64, 64, 64)
  load.joinDecode(0, 10)
  load.advanceDecodes(1)
  expect([...load.windowPairs, ...load.decodeWindowKeys]).toEqual([0, 0, 0, 0])
})
