import type { IntList } from "./IntList.ts"
import { StepPlan, sections, sectionWidths } from "./StepPlan.ts"
import { StepResult, resultSections } from "./StepResult.ts"

/**
 * Bytes of a StepPlan and a StepResult. Little-endian 32-bit words:
 *
 *     magic, version, stepId low, stepId high, extra, [count, …data] per section, checksum
 *
 * `extra` is 0 in a plan and the device time in µs in a result. `count` is in integers, not records. The checksum is
 * FNV-1a over the words before it.
 */
const planMagic = 0x4c505055 // "UPPL"
const resultMagic = 0x52535055 // "UPSR"
export const formatVersion = 1
const headerWords = 5

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

/** Encodes into a buffer that is reused from call to call; the returned view is valid until the next call. */
export class Encoder {
  private words = new Int32Array(256)

  encodePlan(plan: StepPlan): Uint8Array {
    return this.encode(planMagic, plan.stepId, 0, sections, plan)
  }

  encodeResult(result: StepResult): Uint8Array {
    return this.encode(resultMagic, result.stepId, result.deviceMicros, resultSections, result)
  }

  private encode<Name extends string>(
    magic: number,
    stepId: number,
    extra: number,
    names: ReadonlyArray<Name>,
    source: { readonly [N in Name]: IntList },
  ): Uint8Array {
    let total = headerWords + names.length + 1
    for (let i = 0; i < names.length; i++) total += source[names[i]!].length
    if (total > this.words.length) this.words = new Int32Array(total * 2)
    const words = this.words
    words[0] = magic
    words[1] = formatVersion
    words[2] = (stepId % 0x1_0000_0000) | 0
    words[3] = Math.floor(stepId / 0x1_0000_0000)
    words[4] = extra
    let at = headerWords
    for (let i = 0; i < names.length; i++) {
      const list = source[names[i]!]
      words[at++] = list.length
      for (let j = 0; j < list.length; j++) words[at++] = list.data[j]!
    }
    words[at] = checksumWords(words, at)
    return new Uint8Array(words.buffer, 0, (at + 1) * 4)
  }
}

const decode = <Name extends string>(
  what: string,
  magic: number,
  bytes: Uint8Array,
  names: ReadonlyArray<Name>,
  target: { readonly [N in Name]: IntList },
): { readonly stepId: number; readonly extra: number } => {
  if (bytes.byteLength % 4 !== 0)
    throw new CodecError(`${what}: ${bytes.byteLength} bytes is not a whole number of words`)
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice()
  const words = new Int32Array(aligned.buffer, aligned.byteOffset, aligned.byteLength / 4)
  const least = headerWords + names.length + 1
  if (words.length < least) throw new CodecError(`${what}: ${words.length} words, the shortest has ${least}`)
  if (words[0] !== magic)
    throw new CodecError(`${what}: magic is 0x${(words[0]! >>> 0).toString(16)}, expected 0x${magic.toString(16)}`)
  if (words[1] !== formatVersion)
    throw new CodecError(`${what}: version is ${words[1]}, this build reads ${formatVersion}`)
  let at = headerWords
  for (const name of names) {
    const count = words[at++]!
    if (count < 0 || at + count >= words.length) {
      throw new CodecError(`${what}: section ${name} claims ${count} integers, ${words.length - at - 1} are left`)
    }
    target[name].pushAll(words, at, at + count)
    at += count
  }
  if (at + 1 !== words.length) throw new CodecError(`${what}: ${words.length - at - 1} words after the last section`)
  const checksum = checksumWords(words, at)
  if (checksum !== words[at]) throw new CodecError(`${what}: checksum is ${words[at]}, its bytes give ${checksum}`)
  return { stepId: (words[2]! >>> 0) + (words[3]! >>> 0) * 0x1_0000_0000, extra: words[4]! }
}

/** Fails with {@link CodecError} on anything but the bytes of one plan. */
export const decodePlan = (bytes: Uint8Array): StepPlan => {
  const plan = new StepPlan()
  const { stepId } = decode("StepPlan", planMagic, bytes, sections, plan)
  for (const name of sections) {
    const width = sectionWidths[name]
    if (plan[name].length % width !== 0) {
      throw new CodecError(`StepPlan: section ${name} has ${plan[name].length} integers, records have ${width}`)
    }
  }
  plan.stepId = stepId
  return plan
}

/** Decodes into `result`, which is cleared first. Fails with {@link CodecError}. */
export const decodeResult = (bytes: Uint8Array, result: StepResult = new StepResult()): StepResult => {
  result.clear(0)
  const { stepId, extra } = decode("StepResult", resultMagic, bytes, resultSections, result)
  result.stepId = stepId
  result.deviceMicros = extra
  return result
}
