import { fc, test } from "@fast-check/vitest"
import { describe, expect, it } from "vitest"
import {
  CodecError,
  Encoder,
  checksumWords,
  decodePlan,
  decodeResult,
  formatVersion,
} from "@uniprefill/scheduler/Codec"
import { sectionFormats, sections, sectionWidths, StepPlan } from "@uniprefill/scheduler/StepPlan"
import { resultFormats, resultSections, StepResult } from "@uniprefill/scheduler/StepResult"

const int32 = fc.integer({ min: -0x8000_0000, max: 0x7fff_ffff })
const stepIds = fc.oneof(
  fc.integer({ min: 1, max: 1000 }),
  fc.integer({ min: 0x7fff_fff0, max: 0x8000_0010 }),
  fc.integer({ min: 0xffff_fff0, max: 0x1_0000_0010 }),
  fc.integer({ min: 0x1_0000_0000, max: Number.MAX_SAFE_INTEGER }),
)

/** Lists of every section; records have the width given. */
const listsOf = <Name extends string>(names: ReadonlyArray<Name>, widthOf: (name: Name) => number) =>
  fc.tuple(
    ...names.map((name) =>
      fc.array(fc.array(int32, { minLength: widthOf(name), maxLength: widthOf(name) }), { maxLength: 8 }),
    ),
  )

const plans = fc
  .record({ stepId: stepIds, lists: listsOf(sections, (name) => sectionWidths[name]) })
  .map(({ stepId, lists }) => {
    const plan = new StepPlan()
    plan.clear(stepId)
    for (const [i, name] of sections.entries()) plan[name].pushAll(lists[i]!.flat())
    return plan
  })
const results = fc
  .record({
    stepId: stepIds,
    deviceMicros: fc.nat(0x7fff_ffff),
    lists: listsOf(resultSections, (name) => Math.max(1, resultFormats[name].width)),
  })
  .map(({ stepId, deviceMicros, lists }) => {
    const result = new StepResult()
    result.clear(stepId)
    result.deviceMicros = deviceMicros
    for (const [i, name] of resultSections.entries()) result[name].pushAll(lists[i]!.flat())
    return result
  })

/** What a plan or a result says, without the spare capacity of its lists. */
const said = (source: StepPlan | StepResult) =>
  source instanceof StepPlan
    ? { stepId: source.stepId, lists: sections.map((name) => source[name].toArray()) }
    : {
        stepId: source.stepId,
        deviceMicros: source.deviceMicros,
        lists: resultSections.map((name) => source[name].toArray()),
      }

/** Bytes of their own, at an offset into their buffer. */
const copyAt = (bytes: Uint8Array, offset: number): Uint8Array => {
  const copy = new Uint8Array(bytes.length + offset).subarray(offset)
  copy.set(bytes)
  return copy
}
const bytesOfPlan = (plan: StepPlan): Uint8Array => copyAt(new Encoder().encodePlan(plan), 0)
const bytesOfResult = (result: StepResult): Uint8Array => copyAt(new Encoder().encodeResult(result), 0)

describe("plans and results come back as they went", () => {
  test.prop([plans, fc.nat(3)])("plans, at any alignment", (plan, offset) => {
    const bytes = copyAt(bytesOfPlan(plan), offset)
    expect(bytes.byteOffset % 4).toBe(offset)
    expect(said(decodePlan(bytes))).toEqual(said(plan))
  })

  test.prop([results, results, fc.nat(3)])("results, at any alignment and into a used one", (result, used, offset) => {
    expect(said(decodeResult(copyAt(bytesOfResult(result), offset)))).toEqual(said(result))
    expect(said(decodeResult(copyAt(bytesOfResult(result), offset), used))).toEqual(said(result))
  })

  test.prop([fc.array(plans, { minLength: 2, maxLength: 6 })])("one encoder after another plan", (several) => {
    const encoder = new Encoder()
    for (const plan of several) expect(said(decodePlan(encoder.encodePlan(plan)))).toEqual(said(plan))
  })

  it("beyond the first buffer of an encoder", () => {
    const plan = new StepPlan()
    plan.clear(7)
    for (let i = 0; i < 10_000; i++) plan.grants.push3(i, -i, i * 3)
    expect(said(decodePlan(new Encoder().encodePlan(plan)))).toEqual(said(plan))
  })
})

/** A small plan and a small result with something in their first and last sections. */
const plan = new StepPlan()
plan.clear(2 ** 33 + 5)
plan.retains.push(3)
plan.grants.push3(1, 0, 17)
plan.items.pushAll([1, 0, 64, 0, 2])
plan.samples.push2(0, 1)
const result = new StepResult()
result.clear(2 ** 33 + 5)
result.deviceMicros = 1234
for (const slot of [1, 2]) result.tokens.push3(slot, 42 + slot, 0)
result.ranks.push(-99)

const kinds = [
  {
    what: "StepPlan",
    bytes: bytesOfPlan(plan),
    decode: (bytes: Uint8Array) => void decodePlan(bytes),
    first: "retains",
  },
  {
    what: "StepResult",
    bytes: bytesOfResult(result),
    decode: (bytes: Uint8Array) => void decodeResult(bytes),
    first: "tokens",
  },
]
const header = 6

describe.each(kinds)("bytes that are not a $what", ({ what, bytes, decode, first }) => {
  /** The bytes with their words altered, under a checksum that holds. */
  const altered = (alter: (words: Array<number>) => void): Uint8Array => {
    const words = Array.from(new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4))
    alter(words)
    words[words.length - 1] = checksumWords(Int32Array.from(words), words.length - 1)
    return new Uint8Array(Int32Array.from(words).buffer)
  }
  const refusal = (wrong: Uint8Array): string => {
    try {
      decode(wrong)
    } catch (error) {
      if (error instanceof CodecError) return error.message
      throw error
    }
    return "accepted"
  }

  it("is the starting point of what follows", () => {
    expect(refusal(bytes)).toBe("accepted")
    expect(refusal(altered(() => {}))).toBe("accepted")
  })

  it("are refused at every shorter length, and with more after them", () => {
    const least = header + 1
    for (let length = 0; length < bytes.length; length++) {
      const expected =
        length % 4 !== 0
          ? `${what}: ${length} bytes is not a whole number of words`
          : length / 4 < least
            ? `${what}: ${length / 4} words, the shortest has ${least}`
            : what
      expect(refusal(bytes.slice(0, length))).toMatch(new RegExp(`^${expected}`))
    }
    expect(refusal(altered((words) => words.push(0)))).toBe(`${what}: 1 words after the last section`)
    expect(refusal(altered((words) => words.push(0, 0, 0)))).toBe(`${what}: 3 words after the last section`)
  })

  it("are refused by their sections: unknown, empty, out of order, twice, too many", () => {
    const second = header + 2 + new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)[header + 1]!
    expect(refusal(altered((words) => (words[second] = 99)))).toBe(`${what}: section 99 is not known to this build`)
    expect(refusal(altered((words) => (words[header] = 0)))).toBe(`${what}: section 0 is not known to this build`)
    expect(refusal(altered((words) => (words[second] = 1)))).toBe(
      `${what}: section ${first} (1) follows section 1: ids ascend`,
    )
    const last = what === "StepPlan" ? "samples (14)" : "promptLogprobs (7)"
    const id = what === "StepPlan" ? 14 : 7
    expect(refusal(altered((words) => (words[header] = id)))).toMatch(
      new RegExp(`section .* follows section ${id}: ids ascend|section ${last.split(" ")[0]} has`),
    )
    expect(refusal(altered((words) => words.splice(second, 0, id, 0)))).not.toBe("accepted")
    expect(refusal(altered((words) => words[header - 1]!++))).toMatch(/sections are announced, the words end after/)
    expect(refusal(altered((words) => words[header - 1]!--))).toMatch(/words after the last section/)
  })

  it("are refused with any one bit of any byte turned", () => {
    for (let at = 0; at < bytes.length; at++) {
      for (let bit = 0; bit < 8; bit++) {
        const flipped = bytes.slice()
        flipped[at]! ^= 1 << bit
        expect(refusal(flipped), `bit ${bit} of byte ${at}`).not.toBe("accepted")
      }
    }
  })

  test.prop([fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 })])("nor with any other byte", (at, change) => {
    const flipped = bytes.slice()
    flipped[at]! ^= change
    expect(refusal(flipped)).not.toBe("accepted")
  })

  it("are refused by magic, version and checksum, with what was found", () => {
    const own = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true)
    expect(refusal(altered((words) => (words[0] = 0xdeadbeef | 0)))).toBe(
      `${what}: magic is 0xdeadbeef, expected 0x${own.toString(16)}`,
    )
    expect(refusal(altered((words) => (words[1] = formatVersion + 1)))).toBe(
      `${what}: version is ${formatVersion + 1}, this build reads ${formatVersion}`,
    )
    const last = bytes.slice()
    last[bytes.length - 1]! ^= 1
    expect(refusal(last)).toMatch(new RegExp(`^${what}: checksum is -?\\d+, its bytes give -?\\d+$`))
  })

  it("are refused when a section claims fewer integers than none, or more than there are", () => {
    const left = bytes.length / 4 - header - 3
    for (const count of [left + 1, 0x7fff_ffff]) {
      expect(refusal(altered((words) => (words[header + 1] = count)))).toBe(
        `${what}: section ${first} claims ${count} integers, ${left} are left`,
      )
    }
    for (const count of [0, -1, -0x8000_0000]) {
      expect(refusal(altered((words) => (words[header + 1] = count)))).toBe(
        `${what}: section ${first} claims ${count} integers; empty sections are left out`,
      )
    }
  })

  it("are refused where the other kind is expected", () => {
    expect(refusal(kinds.find((kind) => kind.what !== what)!.bytes)).toMatch(/magic is 0x[0-9a-f]{8}, expected/)
  })
})

describe("a plan's records", () => {
  it.each(sections.filter((name) => sectionWidths[name] > 1))("of %s are whole", (name) => {
    for (let rest = 1; rest < sectionWidths[name]; rest++) {
      const broken = new StepPlan()
      broken.clear(1)
      const integers = 2 * sectionWidths[name] + rest
      broken[name].pushAll(new Int32Array(integers))
      expect(() => decodePlan(bytesOfPlan(broken))).toThrow(
        new CodecError(`StepPlan: section ${name} has ${integers} integers, records have ${sectionWidths[name]}`),
      )
    }
  })
})

it("sections have the numbers that every build has given them", () => {
  expect(Object.entries(sectionFormats).map(([name, { id, width }]) => `${id} ${name} ${width}`)).toEqual([
    "1 retains 1",
    "2 leaves 1",
    "3 closes 1",
    "4 opens 2",
    "5 trims 3",
    "6 windowFrees 3",
    "7 evictions 1",
    "8 maps 3",
    "9 grants 3",
    "10 copies 2",
    "11 states 3",
    "12 joins 2",
    "13 items 5",
    "14 samples 2",
  ])
  expect(Object.entries(resultFormats).map(([name, { id }]) => `${id} ${name}`)).toEqual([
    "1 tokens",
    "2 selections",
    "3 logprobs",
    "4 logits",
    "5 ranks",
    "6 failures",
    "7 promptLogprobs",
    "8 selectionMicros",
  ])
})
