import { fc, test } from "@fast-check/vitest"
import { IntMap } from "@uniprefill/simulator/IntMap"
import { expect } from "vitest"

const entries = fc.array(fc.tuple(fc.integer({ min: 0, max: 3000 }), fc.integer({ min: 0, max: 9 })), {
  maxLength: 3000,
})

test.prop({ entries, stride: fc.constantFrom(1, 1024, 700_001) })(
  "holds what a Map holds",
  ({ entries: list, stride }) => {
    const map = new IntMap(4)
    const model = new Map<number, number>()
    for (const [key, value] of list) {
      expect(map.get(key * stride)).toBe(model.get(key) ?? -1)
      map.set(key * stride, value)
      model.set(key, value)
      expect(map.size).toBe(model.size)
    }
    for (const [key, value] of model) expect(map.get(key * stride)).toBe(value)
    map.clear()
    expect([map.size, ...list.map(([key]) => map.get(key * stride))]).toEqual([0, ...list.map(() => -1)])
  },
)
