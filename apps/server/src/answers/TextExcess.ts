import { fewestTokens } from "@uniprefill/tokenizer/TextBound"

/** How long a text may be: so many characters, or what a model takes. */
export type LongestText =
  | { readonly _tag: "Characters"; readonly characters: number }
  | {
      readonly _tag: "Model"
      readonly maxModelLen: number
      /** UTF-16 units that one token stands for at most; null where the vocabulary does not say. */
      readonly longestToken: number | null
    }

/** Why a text of so many UTF-16 units in `field` is too long, for a model however it is tokenised; null where it may fit. */
export const textExcess = (field: string, characters: number, longest: LongestText): string | null => {
  if (longest._tag === "Characters") {
    return characters <= longest.characters
      ? null
      : `${field} has ${characters} characters, the limit is ${longest.characters}`
  }
  const { maxModelLen } = longest
  const fewest = fewestTokens(longest, characters)
  return fewest < maxModelLen
    ? null
    : `this model takes at most ${maxModelLen} tokens, but ${field} has ${characters} characters, ` +
        `which are ${fewest} tokens at least`
}
