import type { KeepModel } from "@uniprefill/executor/simulated/KeepModel"
import { bitmapWords, blockCount, type SelectionShape } from "@uniprefill/model/Selection"
import { keptShare, type KeepProfile } from "./KeepProfile.ts"

/**
 * Draws selections: bitmaps over the blocks of a kept set, so that the sets of a prompt are nested and their expected sizes
 * follow a profile, or those of a recorded prompt. A bitmap depends on (seed, request, segment) alone, not on when it is asked for.
 */
export class SelectionDraw implements KeepModel {
  /** Of selections to come. */
  profile: KeepProfile
  /** The same of prompts at a lower p than the schedule's. */
  private readonly lowered: KeepProfile
  private readonly seed: number
  private readonly drops: number
  private state = 0
  /** Of so many words, used again. */
  private readonly bitmaps: Array<Uint32Array> = []

  /** `drops`: how many drop layers the schedule has. */
  constructor(seed: number, profile: KeepProfile, drops: number, lowered = profile) {
    this.seed = seed
    this.profile = profile
    this.lowered = lowered
    this.drops = drops
  }

  /**
   * The selection after `segment` over a set of `shape.rows` rows of a prompt of `promptTokens`; where it is drawn, valid until
   * the next call.
   */
  select(
    request: number,
    promptTokens: number,
    segment: number,
    shape: SelectionShape,
    isLowered = false,
  ): Uint32Array {
    const profile = isLowered ? this.lowered : this.profile
    const { recorded } = profile
    // One recorded prompt for all selections of a request.
    if (recorded !== undefined)
      return recorded.select(mixed(mixed(0x2545f491, this.seed), request), promptTokens, segment, shape)
    const words = bitmapWords(shape)
    const bitmap = (this.bitmaps[words] ??= new Uint32Array(words))
    const forced = Math.min(shape.rows, shape.sink + shape.lastQ)
    const wanted = keptShare(profile, promptTokens, segment, this.drops) * promptTokens
    const candidates = shape.rows - forced
    const share = candidates === 0 ? 1 : Math.max(0, Math.min(1, (wanted - forced) / candidates))
    this.state = mixed(mixed(mixed(0x2545f491, this.seed), request), segment)
    // Bits that are set with probability share, to 12 binary places: from the last place, OR for a 1 and AND for a 0.
    const places = Math.round(share * 4096)
    for (let w = 0; w < bitmap.length; w++) bitmap[w] = places === 4096 ? 0xffff_ffff : this.word(places)
    const beyond = bitmap.length * 32 - blockCount(shape)
    if (beyond > 0) bitmap[bitmap.length - 1]! &= 0xffff_ffff >>> beyond
    return bitmap
  }

  private word(places: number): number {
    let word = 0
    let rest = places
    for (let place = 0; place < 12; place++) {
      const random = this.next()
      word = (rest & 1) === 1 ? word | random : word & random
      rest >>>= 1
    }
    return word
  }

  private next(): number {
    this.state = (this.state + 0x9e3779b9) | 0
    let hash = Math.imul(this.state ^ (this.state >>> 16), 0x85ebca6b)
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
    return hash ^ (hash >>> 16)
  }
}

const mixed = (hash: number, word: number): number => {
  const product = Math.imul(hash ^ word, 0x85ebca6b)
  return Math.imul(product ^ (product >>> 13), 0xc2b2ae35) ^ (word >>> 16)
}
