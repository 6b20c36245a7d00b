import type { TokenIds } from "@uniprefill/openai/Field"
import { Effect } from "effect"

/** Tokens that are looked at without giving others a turn: under 2 ms. */
const sliceTokens = 16_384

/** A turn of the event loop, in which sockets are served too. */
export const turn = Effect.callback<void>((resume) => {
  const immediate = setImmediate(() => resume(Effect.void))
  return Effect.sync(() => clearImmediate(immediate))
})

/** Does something with a list of tokens, however long, without stalling the event loop. */
export const inSlices = (tokens: TokenIds, each: (part: TokenIds) => void): Effect.Effect<void> =>
  Effect.gen(function* () {
    for (let from = 0; from < tokens.length; from += sliceTokens) {
      if (from > 0) yield* turn
      each(tokens.slice(from, from + sliceTokens))
    }
  })
