import { expect, it } from "vitest"
import type { Machine } from "./Machine.ts"
import { cutDifference } from "./TeacherForcing.ts"

// Differences at the cut and elsewhere are told apart, over blocks of given masses.

const masses = [0.3, 0.2, 0.15, 0.1, 0.0502, 0.0501, 0.04, 0.03, 0.0297, 0.02, 0.01, 0.04]
const p = BigInt(Math.round(0.78 * 2 ** 32))

/** Keeps blocks by falling mass until p is reached. */
const selected = (pQ32: bigint): Uint32Array => {
  const order = masses.map((mass, block) => ({ mass, block })).toSorted((a, b) => b.mass - a.mass)
  let bits = 0
  let sum = 0
  for (const { mass, block } of order) {
    if (BigInt(Math.round(sum * 2 ** 32)) >= pQ32) break
    bits |= 1 << block
    sum += mass
  }
  return Uint32Array.of(bits)
}

const machine = {
  run: ([request]: ReadonlyArray<{ readonly pQ32: ReadonlyArray<bigint> | null }>) =>
    Promise.resolve({ answers: [{ bitmaps: [selected(request!.pQ32![0]!)] }] }),
} as unknown as Machine

const compared = (change: number, epsilon = 0.01) =>
  cutDifference(machine, { prompt: [], pQ32: [p] }, [selected(p).map((bits) => bits ^ change)], epsilon)

it("keeps blocks 0 to 4 of the masses", () => {
  expect(selected(p)).toEqual(Uint32Array.of(0b11111))
})

it.each([
  ["no difference", 0, { different: 0, blocks: 0, outside: 0 }],
  ["the last kept and the first left out, of nearly equal mass", 0b110000, { different: 1, blocks: 2, outside: 0 }],
  ["the last kept and the second left out", 0b1010000, { different: 1, blocks: 2, outside: 1 }],
  ["one kept more that is far from the cut", 1 << 10, { different: 1, blocks: 1, outside: 1 }],
  ["the heaviest", 1, { different: 1, blocks: 1, outside: 1 }],
] as const)("%s", async (_, change, expected) => {
  expect(await compared(change)).toEqual({ selections: 1, ...expected })
})

it("the last kept and the first left out are no pair where their masses differ by more", async () => {
  expect(await compared(0b110000, 0.00001)).toMatchObject({ blocks: 2, outside: 2 })
})

it("one that a little more p keeps is at the cut", async () => {
  expect(await compared(1 << 5, 0.05)).toMatchObject({ blocks: 1, outside: 0 })
})
