import { encode } from "@msgpack/msgpack"
import type { PrefixEvent } from "@uniprefill/engine/PrefixEvents"

/**
 * The payload of one message: `[seconds, events, data-parallel rank]`, each event an array with its name first, as vLLM's
 * publisher writes them. Consecutive pages of one prefix are one event.
 *
 *     ["BlockStored", hashes, parent hash, token ids, block size, lora id, medium, lora name, extra keys, group]
 *     ["BlockRemoved", hashes, medium, group]
 *     ["AllBlocksCleared"]
 */
export const encodeBatch = (events: ReadonlyArray<PrefixEvent>, blockSize: number, seconds: number): Uint8Array => {
  const out: Array<unknown> = []
  let stored: { hashes: Array<bigint>; tokens: Array<number>; last: string } | undefined
  let removed: Array<bigint> | undefined
  for (const event of events) {
    if (event._tag !== "Removed") removed = undefined
    if (event._tag === "Stored") {
      if (stored === undefined || event.parent !== stored.last) {
        stored = { hashes: [], tokens: [], last: event.key }
        const parent = event.parent === null ? null : blockHash(event.parent)
        out.push(["BlockStored", stored.hashes, parent, stored.tokens, blockSize, null, medium, null, null, group])
      }
      stored.hashes.push(blockHash(event.key))
      for (const token of event.tokens) stored.tokens.push(token)
      stored.last = event.key
      continue
    }
    stored = undefined
    if (event._tag === "Cleared") out.push(["AllBlocksCleared"])
    else {
      if (removed === undefined) {
        removed = []
        out.push(["BlockRemoved", removed, medium, group])
      }
      removed.push(blockHash(event.key))
    }
  }
  return encode([seconds, out, 0], { useBigInt64: true })
}

/** 64 bits of a page's key, which is a digest in base64. */
export const blockHash = (key: string): bigint => Buffer.from(key, "base64").readBigUInt64BE(0)

const medium = "GPU"

/** Segment 0's pages: they alone are shared. */
const group = 0
