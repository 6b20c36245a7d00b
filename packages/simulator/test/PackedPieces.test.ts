import fc from "fast-check"
import { PackedPieces, type Typed } from "@uniprefill/simulator/timetravel/PackedPieces"
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
          let copy: Typed | null = null
          let places: Int32Array = new Int32Array(0)
          const seen = moments.map((made) => {
            for (const [at, value] of made) if (length > 0) array[at % length] = value
            pieces.begin()
            places = pieces.save(array, copy, places)
            copy ??= array.slice()
            return { places, content: array.slice() }
          })
          // While the last moment is still open, and after the end.
          for (const ends of [false, true]) {
            if (ends) pieces.end()
            for (const moment of seen.toReversed()) {
              pieces.putBack(array, moment.places)
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
    const first = pieces.save(array, null, new Int32Array(0))
    const copy = array.slice()
    pieces.begin()
    expect(pieces.save(array, copy, first)).toBe(first)
    array[499] = 4
    const second = pieces.save(array, copy, first)
    // Three of four pieces lie where they lay.
    expect([...second.keys()].filter((i) => second[i] !== first[i])).toEqual([6, 7])
    expect(copy).toEqual(array)
  })
})
