import { greedy } from "@uniprefill/executor/contract/Executor"
import type { LoopRequest } from "./LoopServer.ts"
import type { Machine } from "./Machine.ts"

/** Logits as numbers, from the bits that a result carries. */
export const floatsOf = (bits: Int32Array): Float32Array => new Float32Array(bits.buffer, bits.byteOffset, bits.length)

/**
 * What a request's answer would have been sampled from had it been alone: its prompt in one step with the given selections, then the given
 * tokens one by one. `tokens.length` rows of logits, the first behind the prompt.
 */
export const teacherForced = async (
  machine: Machine,
  { prompt, pQ32 }: Pick<LoopRequest, "prompt" | "pQ32">,
  tokens: ReadonlyArray<number>,
  bitmaps: ReadonlyArray<Uint32Array>,
): Promise<ReadonlyArray<Float32Array>> => {
  let given = 0
  let slot = -1
  const { answers } = await machine.run(
    [{ prompt, pQ32, maxTokens: tokens.length, sampling: { ...greedy, allowedTokenIds: [0] } }],
    {
      bitmaps,
      maxStepsInFlight: 1,
      altered: (plan) => {
        if (plan.joins.length > 0) {
          slot = plan.joins.data[0]!
          plan.joins.data[1] = tokens[given++]!
        } else if (slot >= 0 && plan.leaves.length === 0) {
          // It leaves the decode set and joins again with the next token.
          plan.leaves.push(slot)
          plan.joins.push2(slot, tokens[given++]!)
        } else slot = -1
      },
    },
  )
  const { logits } = answers[0]!
  if (logits.length !== tokens.length || given !== tokens.length - 1) {
    throw new Error(`${given} tokens forced and ${logits.length} rows of logits of ${tokens.length}`)
  }
  return logits.map(floatsOf)
}

/** The selection that a request's scores choose alone, its earlier ones being given: number `bitmaps.length`, at `pQ32`. */
export const selectionAlone = async (
  machine: Machine,
  { prompt, pQ32 }: { readonly prompt: ArrayLike<number>; readonly pQ32: ReadonlyArray<bigint> },
  bitmaps: ReadonlyArray<Uint32Array>,
): Promise<Uint32Array> => {
  const { answers } = await machine.run([{ prompt, pQ32, maxTokens: 1 }], { bitmaps })
  return answers[0]!.bitmaps[bitmaps.length]!
}

/** ‖a − b‖ / ‖b‖ */
export const distance = (a: Float32Array, b: Float32Array): number => {
  let difference = 0
  let norm = 0
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2
    norm += b[i]! ** 2
  }
  return Math.sqrt(difference / norm)
}

export interface CutDifference {
  /** Selections looked at, and those of them that are not what the request alone selects. */
  readonly selections: number
  readonly different: number
  /** Blocks in which these differ, and those of them that lie further from the cut than allowed. */
  readonly blocks: number
  readonly outside: number
}

/**
 * Compares an answer's selections with what its scores choose alone, the earlier selections being the answer's. A block that differs is at
 * the cut when p less and p more by `epsilon` disagree about it too, or when it is the last one kept or the first one left out and the masses
 * of these two differ by no more: they may have changed places.
 */
export const cutDifference = async (
  machine: Machine,
  { prompt, pQ32 }: { readonly prompt: ArrayLike<number>; readonly pQ32: ReadonlyArray<bigint> },
  bitmaps: ReadonlyArray<Uint32Array>,
  epsilon: number,
): Promise<CutDifference> => {
  const found = { selections: bitmaps.length, different: 0, blocks: 0, outside: 0 }
  for (const [i, bitmap] of bitmaps.entries()) {
    const at = (p: bigint) => selectionAlone(machine, { prompt, pQ32: pQ32.with(i, clamped(p)) }, bitmaps.slice(0, i))
    const p = pQ32[i]!
    const alone = await at(p)
    if (alone.every((word, w) => word === bitmap[w])) continue
    found.different++
    const by = BigInt(Math.round(epsilon * 2 ** 32))
    const [fewer, more] = [await at(p - by), await at(p + by)]
    // Kept only by the larger p: at the cut.
    let outside = bitmap.map((word, w) => (word ^ alone[w]!) & ~(more[w]! & ~fewer[w]!))
    if (bitsOf(outside) > 0) {
      const level = await levelBlocks(at, alone, by)
      outside = outside.map((word, w) => word & ~level[w]!)
    }
    found.blocks += bitsOf(bitmap.map((word, w) => word ^ alone[w]!))
    found.outside += bitsOf(outside)
  }
  return found
}

/** The last block kept and the first one left out, where their masses differ by at most `by`; else none. */
const levelBlocks = async (
  at: (p: bigint) => Promise<Uint32Array>,
  alone: Uint32Array,
  by: bigint,
): Promise<Uint32Array> => {
  const kept = bitsOf(alone)
  /** The least p, to 16 bits, that keeps so many blocks: the masses of all before the last of them. */
  const leastFor = async (blocks: number) => {
    let [below, enough] = [-1n, 1n << 16n]
    while (enough - below > 1n) {
      const middle = (below + enough) >> 1n
      if (bitsOf(await at(middle << 16n)) >= blocks) enough = middle
      else below = middle
    }
    return enough << 16n
  }
  const [last, next, behind] = [await leastFor(kept), await leastFor(kept + 1), await leastFor(kept + 2)]
  const difference = next - last - (behind - next)
  if (difference > by || difference < -by) return new Uint32Array(alone.length)
  const [without, beyond] = [await at(last - (1n << 16n)), await at(next)]
  return alone.map((word, w) => (word & ~without[w]!) | (beyond[w]! & ~word))
}

const clamped = (p: bigint): bigint => (p < 0n ? 0n : p > 1n << 32n ? 1n << 32n : p)

const bitsOf = (words: Uint32Array): number => {
  let count = 0
  for (const word of words) for (let bits = word; bits !== 0; bits = (bits & (bits - 1)) >>> 0) count++
  return count
}
