import type { IntList } from "./IntList.ts"
import { sectionFormats, StepPlan } from "./StepPlan.ts"
import { resultFormats, StepResult } from "./StepResult.ts"

/**
 * Bytes of a StepPlan and a StepResult. Little-endian 32-bit words:
 *
 *     magic, version, stepId low, stepId high, extra, sections, [id, count, …data] per section, checksum
 *
 * `extra` is 0 in a plan and the device time in µs in a result. Sections that hold something follow in the order of their ids;
 * `count` is in integers, not records. The checksum is FNV-1a over the words before it.
 */
const planMagic = 0x4c505055 // "UPPL"
const resultMagic = 0x52535055 // "UPSR"
export const formatVersion = 2
const headerWords = 6

/** Bytes that are not a plan or a result: what was expected, what was found, and at which word. */
export class CodecError extends Error {
  constructor(message: string) {
    super(message)
    this.name = "CodecError"
  }
}

/** FNV-1a over 32-bit words. */
export const checksumWords = (words: Int32Array, count: number): number => {
  let hash = 0x811c9dc5 | 0
  for (let i = 0; i < count; i++) hash = Math.imul(hash ^ words[i]!, 0x01000193)
  return hash
}

interface SectionFormat {
  readonly name: string
  readonly id: number
  /** 0: records say their own length. */
  readonly width: number
}

const listed = (formats: Readonly<Record<string, Omit<SectionFormat, "name">>>): ReadonlyArray<SectionFormat> =>
  Object.entries(formats).map(([name, format]) => ({ name, ...format }))

const planSections = listed(sectionFormats)
const resultSections = listed(resultFormats)

/** Encodes into a buffer that is reused from call to call; the returned view is valid until the next call. */
export class Encoder {
  private words = new Int32Array(256)

  encodePlan(plan: StepPlan): Uint8Array {
    return this.encode(planMagic, plan.stepId, 0, planSections, plan.lists)
  }

  encodeResult(result: StepResult): Uint8Array {
    return this.encode(resultMagic, result.stepId, result.deviceMicros, resultSections, result.lists)
  }

  private encode(
    magic: number,
    stepId: number,
    extra: number,
    formats: ReadonlyArray<SectionFormat>,
    lists: ReadonlyArray<IntList>,
  ): Uint8Array {
    let total = headerWords + 1
    let present = 0
    for (let i = 0; i < lists.length; i++) {
      if (lists[i]!.length === 0) continue
      present++
      total += 2 + lists[i]!.length
    }
    if (total > this.words.length) this.words = new Int32Array(total * 2)
    const words = this.words
    words[0] = magic
    words[1] = formatVersion
    words[2] = (stepId % 0x1_0000_0000) | 0
    words[3] = Math.floor(stepId / 0x1_0000_0000)
    words[4] = extra
    words[5] = present
    let at = headerWords
    for (let i = 0; i < lists.length; i++) {
      const { data, length } = lists[i]!
      if (length === 0) continue
      words[at++] = formats[i]!.id
      words[at++] = length
      for (let j = 0; j < length; j++) words[at++] = data[j]!
    }
    words[at] = checksumWords(words, at)
    return new Uint8Array(words.buffer, 0, (at + 1) * 4)
  }
}

/** Fills `lists`, which are empty. */
const decode = (
  what: string,
  magic: number,
  bytes: Uint8Array,
  formats: ReadonlyArray<SectionFormat>,
  lists: ReadonlyArray<IntList>,
): { readonly stepId: number; readonly extra: number } => {
  const fail = (detail: string): never => {
    throw new CodecError(`${what}: ${detail}`)
  }
  if (bytes.byteLength % 4 !== 0) fail(`${bytes.byteLength} bytes is not a whole number of words`)
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice()
  const words = new Int32Array(aligned.buffer, aligned.byteOffset, aligned.byteLength / 4)
  if (words.length < headerWords + 1) fail(`${words.length} words, the shortest has ${headerWords + 1}`)
  if (words[0] !== magic) fail(`magic is 0x${(words[0]! >>> 0).toString(16)}, expected 0x${magic.toString(16)}`)
  if (words[1] !== formatVersion) fail(`version is ${words[1]}, this build reads ${formatVersion}`)
  const end = words.length - 1
  const checksum = checksumWords(words, end)
  if (checksum !== words[end]) fail(`checksum is ${words[end]}, its bytes give ${checksum}`)
  let at = headerWords
  let last = 0
  for (let section = 0; section < words[5]!; section++) {
    if (at + 2 > end) fail(`${words[5]} sections are announced, the words end after ${section}`)
    const id = words[at++]!
    const count = words[at++]!
    const index = formats.findIndex((format) => format.id === id)
    if (index < 0) fail(`section ${id} is not known to this build`)
    const { name, width } = formats[index]!
    if (id <= last) fail(`section ${name} (${id}) follows section ${last}: ids ascend`)
    last = id
    if (count <= 0) fail(`section ${name} claims ${count} integers; empty sections are left out`)
    if (at + count > end) fail(`section ${name} claims ${count} integers, ${end - at} are left`)
    if (width > 0 && count % width !== 0) fail(`section ${name} has ${count} integers, records have ${width}`)
    lists[index]!.pushAll(words, at, at + count)
    at += count
  }
  if (at !== end) fail(`${end - at} words after the last section`)
  return { stepId: (words[2]! >>> 0) + (words[3]! >>> 0) * 0x1_0000_0000, extra: words[4]! }
}

/** Fails with {@link CodecError} on anything but the bytes of one plan. */
export const decodePlan = (bytes: Uint8Array): StepPlan => {
  const plan = new StepPlan()
  plan.stepId = decode("StepPlan", planMagic, bytes, planSections, plan.lists).stepId
  return plan
}

/** Decodes into `result`, which is cleared first. Fails with {@link CodecError}; what `result` holds then is not defined. */
export const decodeResult = (bytes: Uint8Array, result: StepResult = new StepResult()): StepResult => {
  result.clear(0)
  const { stepId, extra } = decode("StepResult", resultMagic, bytes, resultSections, result.lists)
  result.stepId = stepId
  result.deviceMicros = extra
  return result
}
