import type { TokenIds } from "@uniprefill/openai/Field"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect } from "effect"
import { type ApiError, apiError, fromTokenizerError } from "../http/ApiError.ts"
import { Tenant } from "../http/Tenant.ts"
import { ServedModel } from "../model/ServedModel.ts"
import { textExcess } from "./TextExcess.ts"

/**
 * The tokens of one prompt, checked to fit the model with `maxTokens` more. A text that cannot fit however it is tokenised
 * is refused by its length; so are token ids outside the vocabulary.
 */
export const promptTokens = Effect.fnUntraced(function* (
  prompt: string | TokenIds,
  field: string,
  maxTokens: number | undefined,
  addSpecialTokens: boolean,
): Effect.fn.Return<Int32Array, ApiError, Tokenizer | ServedModel | Tenant> {
  const served = yield* ServedModel
  if (typeof prompt === "string") {
    const tokenizer = yield* Tokenizer
    yield* checkTextLength(prompt.length, field)
    const caller = yield* Tenant
    const tokens = yield* tokenizer
      .encode(prompt, { addSpecialTokens, caller })
      .pipe(Effect.mapError((error) => fromTokenizerError(error, field)))
    yield* checkLength(tokens.length, field, maxTokens, served.maxModelLen)
    return tokens
  }
  // The length first: it is cheap, and what is too long need not be looked at.
  yield* checkLength(prompt.length, field, maxTokens, served.maxModelLen)
  const outside = prompt.findIndex((token) => token >= served.vocabSize)
  if (outside < 0) return Int32Array.from(prompt)
  const message = `${field}[${outside}]: token id ${prompt[outside]} is outside the vocabulary of ${served.vocabSize} tokens`
  return yield* apiError(400, message, field)
})

/** Fails with 400 where so many characters make more tokens than the model takes, whatever they are. */
export const checkTextLength = Effect.fnUntraced(function* (characters: number, field: string) {
  const { longestToken } = yield* Tokenizer
  const { maxModelLen } = yield* ServedModel
  const excess = textExcess(field, characters, { _tag: "Model", maxModelLen, longestToken })
  if (excess !== null) return yield* apiError(400, excess, field)
})

const checkLength = (promptLength: number, field: string, maxTokens: number | undefined, maxModelLen: number) => {
  if (promptLength === 0) return Effect.fail(apiError(400, `${field} has no tokens`, field))
  const total = promptLength + (maxTokens ?? 1)
  if (total <= maxModelLen && promptLength < maxModelLen) return Effect.void
  const message =
    maxTokens === undefined
      ? `this model takes at most ${maxModelLen} tokens, but ${field} has ${promptLength}, which leaves none for an answer`
      : `this model takes at most ${maxModelLen} tokens, but ${field} has ${promptLength} ` +
        `and max_tokens = ${maxTokens} asks for ${total} in all`
  return Effect.fail(apiError(400, message, promptLength >= maxModelLen ? field : "max_tokens"))
}
