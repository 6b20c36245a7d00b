import { Tokenizer } from "@huggingface/tokenizers"

/** Text → token ids, synchronously; the same object serves this thread and the encoding thread. */
export interface Encoder {
  /** `addSpecialTokens` puts in what the model's post-processor adds to a text: usually a beginning-of-text token. */
  encode(text: string, addSpecialTokens: boolean): Int32Array
}

/** Throws what @huggingface/tokenizers throws for a normalizer, pre-tokenizer, model or post-processor it lacks. */
export const makeEncoder = (tokenizerJson: object): Encoder => {
  const tokenizer = new Tokenizer(tokenizerJson, {})
  return {
    encode: (text, addSpecialTokens) =>
      text === "" && !addSpecialTokens
        ? new Int32Array(0)
        : Int32Array.from(tokenizer.encode(text, { add_special_tokens: addSpecialTokens }).ids),
  }
}
