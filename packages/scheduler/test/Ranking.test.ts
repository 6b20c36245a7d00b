import { Request } from "@uniprefill/scheduler/Request"
import fc from "fast-check"
import { expect, it } from "vitest"
import { layout, loop } from "./Loop.ts"

it("sorts the guard first, then whose turn has just begun, and the others by arrival", () => {
  const { ranking } = loop().driver.scheduler.state
  const drawn = fc.uniqueArray(fc.record({ id: fc.nat(50), holdsTurn: fc.boolean() }), { selector: ({ id }) => id })
  fc.assert(
    fc.property(drawn, fc.nat(50), (ones, guarded) => {
      const requests = ones.map(({ id, holdsTurn }) => {
        const request = new Request(id, { promptLength: 1, drops: false }, 1, false, layout, 0)
        request.account.holdsTurn = holdsTurn
        return request
      })
      const guard = requests.find(({ id }) => id === guarded) ?? null
      const rank = ({ id, account }: Request) => (id === guarded ? -100 : account.holdsTurn ? id - 60 : id)
      const expected = requests.toSorted((a, b) => rank(a) - rank(b)).map(({ id }) => id)
      ranking.sort(requests, guard)
      expect(requests.map(({ id }) => id)).toEqual(expected)
    }),
  )
})
