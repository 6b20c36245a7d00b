/**
 * How much one request may ask for. Every list and string of the wire format that has no other bound is bounded here, so
 * that no field makes the server hold or do an unbounded amount.
 */
export interface RequestLimits {
  /** Prompts of one request. */
  readonly prompts: number
  /** Answers per prompt, `n`. */
  readonly n: number
  /** Answers of one request, prompts × n. */
  readonly choices: number
  readonly stopStrings: number
  /** Length of one stop string, in UTF-16 units. */
  readonly stopLength: number
  readonly stopTokenIds: number
  readonly logitBias: number
  readonly allowedTokenIds: number
  readonly logprobs: number
  readonly requestIdLength: number
  readonly userLength: number
  readonly modelLength: number
  readonly cacheSaltLength: number
  /** Messages of a conversation. */
  readonly messages: number
  /** Characters and values of a chat template's own variables. */
  readonly templateVariables: number
  /** Characters of a text that is only tokenised. */
  readonly tokenizedCharacters: number
  /** Tokens that are turned into text at a time. */
  readonly detokenizedTokens: number
  /** Latest deadline for a first token, in ms. */
  readonly ttftSloMs: number
}

export const requestLimits: RequestLimits = {
  prompts: 128,
  n: 64,
  choices: 128,
  stopStrings: 16,
  stopLength: 256,
  stopTokenIds: 256,
  logitBias: 1024,
  allowedTokenIds: 65_536,
  logprobs: 20,
  requestIdLength: 128,
  userLength: 512,
  modelLength: 512,
  cacheSaltLength: 256,
  messages: 4096,
  templateVariables: 65_536,
  tokenizedCharacters: 4_194_304,
  detokenizedTokens: 1_048_576,
  ttftSloMs: 86_400_000,
}

/** Largest token id that any vocabulary has. */
export const maxTokenId = 0x7fff_ffff
