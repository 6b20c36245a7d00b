import { Schema } from "effect"

/**
 * Why a tokenizer could not be loaded or a text not be handled:
 *
 * - `MissingFile`, `InvalidJson`, `InvalidField`, `Unsupported`: the model directory, at load;
 * - `TextTooLong`, `QueueFull`: a limit of this process, named in `detail` with both numbers;
 * - `NoChatTemplate`, `ChatTemplate`: the model has none, or it refused these messages;
 * - `ThreadFailed`: the encoding thread died; the next text gets a new one.
 */
export const TokenizerReason = Schema.Literals([
  "MissingFile",
  "InvalidJson",
  "InvalidField",
  "Unsupported",
  "TextTooLong",
  "QueueFull",
  "NoChatTemplate",
  "ChatTemplate",
  "ThreadFailed",
])
export type TokenizerReason = typeof TokenizerReason.Type

export class TokenizerError extends Schema.TaggedError<TokenizerError>()("TokenizerError", {
  reason: TokenizerReason,
  /** The file at fault, or null. */
  file: Schema.NullOr(Schema.String),
  /** The field of `file` or of the request at fault, or null. */
  field: Schema.NullOr(Schema.String),
  detail: Schema.String,
}) {
  override get message(): string {
    const place = [this.file, this.field].filter((part) => part !== null).join(": ")
    return place === "" ? this.detail : `${place}: ${this.detail}`
  }
}
