import { bands, bandsHeight, timeHeight } from "@uniprefill/studio/layout/Bands"
import { along, inkOn, themeOf } from "@uniprefill/studio/layout/Colours"
import { maxOf, maxPyramid } from "@uniprefill/studio/layout/MaxPyramid"
import { Pixels, pixelOf } from "@uniprefill/studio/layout/Pixels"
import { countLabel, durationLabel, ticks, timeLabel } from "@uniprefill/studio/layout/Ticks"
import { clamped, leastSpan, panned, revealing, timeAt, xOf, zoomed } from "@uniprefill/studio/layout/Viewport"
import fc from "fast-check"
import { describe, expect, it } from "vitest"

const bounds = { from: 0, to: 1e9 }
const viewport = fc
  .tuple(fc.double({ min: 0, max: 1e9, noNaN: true }), fc.double({ min: leastSpan, max: 1e9, noNaN: true }))
  .map(([from, span]) => clamped({ from, to: from + span }, bounds))

describe("a viewport", () => {
  it("stays within its bounds and shows no less than it can, whatever is done to it", () => {
    fc.assert(
      fc.property(
        viewport,
        fc.double({ min: 0.001, max: 1000, noNaN: true }),
        fc.double({ min: -3e9, max: 3e9, noNaN: true }),
        (view, factor, by) => {
          for (const next of [
            zoomed(view, factor, view.from + 1, bounds),
            panned(view, by, bounds),
            revealing(view, by, by + 1, bounds),
          ]) {
            expect(next.from).toBeGreaterThanOrEqual(0)
            expect(next.to).toBeLessThanOrEqual(1e9 + 1e-3)
            expect(next.to - next.from).toBeGreaterThanOrEqual(leastSpan - 1e-6)
          }
        },
      ),
    )
  })

  it("keeps what is under the pointer where it is while zooming", () => {
    fc.assert(
      fc.property(
        viewport,
        fc.double({ min: 0.2, max: 5, noNaN: true }),
        fc.integer({ min: 1, max: 999 }),
        (view, factor, x) => {
          const time = timeAt(view, 1000, x)
          const next = zoomed(view, factor, time, bounds)
          // Unless the edge of the run is in the way.
          fc.pre(next.from > 0 && next.to < 1e9)
          expect(xOf(next, 1000, time)).toBeCloseTo(x, 3)
        },
      ),
    )
  })

  it("moves no more than it must to show a stretch of time", () => {
    const view = { from: 100_000, to: 200_000 }
    expect(revealing(view, 140_000, 150_000, bounds)).toEqual(view)
    const moved = revealing(view, 900_000, 910_000, bounds)
    expect(moved.from).toBeLessThan(900_000)
    expect(moved.to).toBeGreaterThan(910_000)
    expect(moved.to - moved.from).toBe(100_000)
  })
})

describe("a pyramid", () => {
  it("finds the largest of any stretch", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(1000), { minLength: 1, maxLength: 70 }), fc.nat(70), fc.nat(70), (values, a, b) => {
        const [from, to] = [Math.min(a, values.length), Math.min(b, values.length)].sort((x, y) => x - y) as [
          number,
          number,
        ]
        const most = maxOf(maxPyramid(Uint32Array.from(values)), from, to)
        expect(most).toBe(Math.max(0, ...values.slice(from, to)))
      }),
    )
  })
})

describe("ticks", () => {
  it("are at round times, in order, and far enough apart to be read", () => {
    fc.assert(
      fc.property(viewport, (view) => {
        const found = ticks(view, 1000)
        const xs = found.map(({ time }) => xOf(view, 1000, time))
        for (let i = 1; i < xs.length; i++) expect(xs[i]! - xs[i - 1]!).toBeGreaterThan(85)
        expect(new Set(found.map(({ label }) => label)).size).toBe(found.length)
      }),
    )
  })

  it("say the time as precisely as they stand apart", () => {
    expect(timeLabel(3_723_000_000, 60e6)).toBe("1:02:03")
    expect(timeLabel(65_000_000, 1e6)).toBe("1:05")
    expect(timeLabel(23_613_869, 1)).toBe("23.613869 s")
    expect(timeLabel(23_500_000, 100_000)).toBe("23.5 s")
    expect([durationLabel(31_964), durationLabel(900), durationLabel(75_000_000), durationLabel(-1)]).toEqual([
      "32.0 ms",
      "900 µs",
      "1 min 15 s",
      "–",
    ])
    expect([countLabel(28_087), countLabel(8_290_000)]).toEqual(["28,087", "8.29 M"])
  })
})

describe("bands", () => {
  it("lie one below the other, give requests what is left, and fit whatever there are of replicas", () => {
    for (const replicas of [1, 2, 3, 8]) {
      for (const height of [300, 620, 900]) {
        const all = bands(replicas, height)
        for (let i = 1; i < all.length; i++)
          expect(all[i]!.top).toBeGreaterThanOrEqual(all[i - 1]!.top + all[i - 1]!.height)
        expect(all.filter(({ kind }) => kind === "device")).toHaveLength(replicas)
        expect(all.at(-1)!.height).toBeGreaterThanOrEqual(96)
        // What is too high for its place is scrolled.
        expect(bandsHeight(all)).toBe(Math.max(height, all.at(-1)!.top + 96))
      }
    }
  })

  it("puts 0.5 ms at the bottom of the time axis and a second at its top", () => {
    expect([timeHeight(500), timeHeight(1_000_000), timeHeight(5e6), timeHeight(0)]).toEqual([0, 1, 1, 0])
    expect(timeHeight(50_000)).toBeGreaterThan(timeHeight(20_000))
  })
})

describe("Pixels", () => {
  it("cuts off what lies outside", () => {
    const pixels = new Pixels(4, 3)
    pixels.rect(-5, -5, 2, 1, 7)
    pixels.rect(3, 2, 99, 99, 9)
    pixels.column(1, 2, 50, 5)
    expect([...pixels.data]).toEqual([7, 7, 0, 0, 0, 0, 0, 0, 0, 5, 0, 9])
  })

  it("stacks shares from the bottom", () => {
    const pixels = new Pixels(2, 4)
    pixels.stacked(0, 4, [Float32Array.of(0.5, 0), Float32Array.of(0.25, 1)], [1, 2])
    expect([...pixels.data]).toEqual([0, 2, 2, 2, 1, 2, 1, 2])
  })

  it("takes colours as bytes in memory", () => {
    const bytes = new Uint8Array(Uint32Array.of(pixelOf("#102030")).buffer)
    expect([...bytes]).toEqual([0x10, 0x20, 0x30, 255])
  })
})

describe("colours", () => {
  it("run from the first to the last of a row, and segments stay apart", () => {
    expect(along(["#000000", "#ffffff"], 0)).toBe("#000000")
    expect(along(["#000000", "#ffffff"], 1)).toBe("#ffffff")
    for (const isDark of [false, true]) {
      expect(new Set(themeOf(isDark, 7).segments).size).toBe(7)
      expect(themeOf(isDark, 1).segments).toHaveLength(1)
    }
  })

  it("are written on in whichever ink has the contrast", () => {
    expect(inkOn("#2f66cf")).toBe("#ffffff")
    expect(inkOn("#eda557")).toBe("#10151b")
    for (const isDark of [false, true]) {
      const { segments, decode } = themeOf(isDark, 7)
      for (const colour of [decode, ...segments]) expect(contrast(colour, inkOn(colour))).toBeGreaterThan(3)
    }
  })
})

const luminance = (colour: string): number => {
  const value = Number.parseInt(colour.slice(1), 16)
  const [r, g, b] = [16, 8, 0].map((shift) => {
    const channel = ((value >> shift) & 255) / 255
    return channel <= 0.03928 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4
  }) as [number, number, number]
  return 0.2126 * r + 0.7152 * g + 0.0722 * b
}

const contrast = (a: string, b: string): number => {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y) as [number, number]
  return (high + 0.05) / (low + 0.05)
}
