import type { Request } from "@uniprefill/scheduler/Request"
import { Turns } from "@uniprefill/scheduler/Turns"
import fc from "fast-check"
import { expect, it } from "vitest"
import { loop } from "./Loop.ts"

const running = fc.array(
  fc.record({
    phase: fc.constantFrom("decode", "decode", "decode", "prefill"),
    ranFor: fc.constantFrom(0, 24, 25, 26, 100),
    owned: fc.integer({ min: 1, max: 6 }),
  }),
  { maxLength: 6 },
)

it("takes the memory of who has run a while: of the least that is enough, else of the most", () => {
  fc.assert(
    fc.property(running, fc.integer({ min: 1, max: 6 }), (drawn, slabs) => {
      const turns = new Turns({ ...loop().driver.settings, maxPauseMicros: 100 })
      turns.begin(1000)
      const requests = drawn.map(({ phase, ranFor }) => ({ phase, account: { runsSinceMicros: 1000 - ranFor } }))
      const ownedOf = new Map<unknown, number>(requests.map((one, i) => [one, drawn[i]!.owned]))
      const victim = turns.victim(requests as unknown as ReadonlyArray<Request>, slabs, (one) => ownedOf.get(one)!)
      const may = drawn.filter(({ phase, ranFor }) => phase === "decode" && ranFor >= 25)
      const enough = may.filter(({ owned }) => owned >= slabs)
      const ascending = (of: typeof may) => of.map(({ owned }) => owned).toSorted((a, b) => a - b)
      expect(victim === null ? undefined : ownedOf.get(victim)).toBe(ascending(enough)[0] ?? ascending(may).at(-1))
      expect(victim === null || may.includes(drawn[requests.indexOf(victim as never)]!)).toBe(true)
    }),
  )
})
