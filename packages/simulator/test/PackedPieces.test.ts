import fc from "fast-check"
import { Known, PackedPieces, type Typed } from "@uniprefill/simulator/timetravel/PackedPieces"
import { describe, expect, it } from "vitest"

const kinds = [Uint8Array, Uint16Array, Int32Array, Uint32Array, Float32Array, Float64Array] as const

const values = [0, 1, -1, 3, 15, 200, 255, 65_535, 65_536, 0x7fff_ffff, 0xffff_ffff, 0.5, Number.NaN, -0]

describe("PackedPieces", () => {
  it("gives every array the content that it had at each moment, whatever its kind, length and values", () => {
    const changes = fc.array(fc.tuple(fc.nat(), fc.constantFrom(...values)), { maxLength: 6 })
    fc.assert(
      fc.property(
        fc.nat(kinds.length - 1),
        fc.integer({ min: 0, max: 700 }),
        fc.array(changes, { minLength: 1, maxLength: 6 }),
        (kind, length, moments) => {
          const array: Typed = new kinds[kind]!(length)
          const pieces = new PackedPieces()
          const known = new Known()
          const seen = moments.map((made) => {
            for (const [at, value] of made) if (length > 0) array[at % length] = value
            pieces.begin()
            return { places: pieces.save(array, length, known), content: array.slice() }
          })
          // While the last moment is still open, and after the end.
          for (const ends of [false, true]) {
            if (ends) pieces.end()
            for (const moment of seen.toReversed()) {
              pieces.putBack(array, length, moment.places)
              expect(new Uint8Array(array.buffer)).toEqual(new Uint8Array(moment.content.buffer))
            }
          }
        },
      ),
      { numRuns: 150 },
    )
  })

  it("keeps the places of what did not change", () => {
    const pieces = new PackedPieces()
    const array = new Int32Array(500).fill(3)
    pieces.begin()
    const known = new Known()
    const first = pieces.save(array, 500, known)
    pieces.begin()
    expect(pieces.save(array, 500, known)).toBe(first)
    array[499] = 4
    const second = pieces.save(array, 500, known)
    // Three of four pieces lie where they lay.
    expect([...second.keys()].filter((i) => second[i] !== first[i])).toEqual([6, 7])
    expect(known.copy).toEqual(array)
  })

  it("keeps no more of an array than is in use, and what it shared before, however much that is at each moment", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(700), fc.nat(699), fc.constantFrom(1, 70_000, -5)), { minLength: 1, maxLength: 12 }),
        (moments) => {
          const pieces = new PackedPieces()
          const known = new Known()
          let array = new Int32Array(300)
          const seen = moments.map(([length, at, value]) => {
            if (length > array.length) {
              const larger = new Int32Array(Math.max(length, 2 * array.length))
              larger.set(array)
              array = larger
            }
            array[at % array.length] = value
            pieces.begin()
            return { length, places: pieces.save(array, length, known), content: array.slice(0, length) }
          })
          pieces.end()
          for (const { length, places, content } of seen.toReversed()) {
            array.fill(9)
            pieces.putBack(array, length, places)
            expect(array.slice(0, length)).toEqual(content)
            expect(array.subarray(length).every((element) => element === 9)).toBe(true)
          }
        },
      ),
      { numRuns: 200 },
    )
  })
})
