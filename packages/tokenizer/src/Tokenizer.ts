import { Context, Effect, Layer, type Scope } from "effect"
import { type ChatRequest, compileChatTemplate } from "./ChatTemplate.ts"
import { Detokenizer, type DetokenizerOptions } from "./Detokenizer.ts"
import { makeEncoder } from "./Encoder.ts"
import { makeEncodeThread } from "./EncodeThread.ts"
import { TokenizerError } from "./TokenizerError.ts"
import { readTokenizerFiles, specialToken } from "./TokenizerFiles.ts"
import { Vocabulary, VocabularyError } from "./Vocabulary.ts"

/** The tokenizer of the loaded model. */
export class Tokenizer extends Context.Service<
  Tokenizer,
  {
    /** One more than the largest token id. A model's output may be padded beyond it. */
    readonly vocabularySize: number
    readonly specialTokens: SpecialTokens
    /**
     * Text → token ids; texts longer than `inlineLength` on a thread of their own. Unpaired surrogates become U+FFFD.
     *
     * Fails with `TextTooLong`, `QueueFull` or `ThreadFailed`.
     */
    readonly encode: (
      text: string,
      options: { readonly addSpecialTokens: boolean },
    ) => Effect.Effect<Int32Array, TokenizerError>
    /** Token ids → text. Bytes that are no character become U+FFFD; ids without a token have no text. */
    readonly decode: (tokens: ArrayLike<number>, options: { readonly skipSpecialTokens: boolean }) => string
    readonly detokenizer: (options: DetokenizerOptions) => Detokenizer
    /** A token that stands alone, as log-probabilities show it: its bytes, and its text with U+FFFD for half characters. */
    readonly tokenBytes: (token: number) => Uint8Array
    readonly tokenText: (token: number) => string
    readonly hasChatTemplate: boolean
    /** Messages → prompt text. Fails with `NoChatTemplate` or `ChatTemplate`. */
    readonly renderChat: (request: ChatRequest) => Effect.Effect<string, TokenizerError>
  }
>()("@uniprefill/tokenizer/Tokenizer") {
  static readonly layer = (options: TokenizerOptions): Layer.Layer<Tokenizer, TokenizerError> =>
    Layer.effect(Tokenizer, make(options))
}

export interface SpecialTokens {
  readonly bos: number | null
  readonly eos: number | null
  /** Every special token, ascending. */
  readonly all: ReadonlyArray<number>
}

export interface TokenizerOptions {
  /** Holds tokenizer.json, and may hold tokenizer_config.json and chat_template.jinja. */
  readonly directory: string
  /** A template file to use in place of the model's own. */
  readonly chatTemplate?: string | undefined
  /** Longest text that is encoded on the calling thread, in UTF-16 units. */
  readonly inlineLength?: number | undefined
  /** Longest text that is encoded at all, in UTF-16 units. */
  readonly maxTextLength?: number | undefined
  /** Texts that may wait for the encoding thread. */
  readonly maxWaiting?: number | undefined
}

/** Measured with needle-10m-deep: encoding costs about 0.65 µs a character, so this much stalls the loop for 3 ms. */
export const defaultInlineLength = 4_096
/** Four million tokens of usual text, 11 s of the encoding thread. */
export const defaultMaxTextLength = 16_777_216
export const defaultMaxWaiting = 256

const make = (options: TokenizerOptions): Effect.Effect<Tokenizer["Service"], TokenizerError, Scope.Scope> =>
  Effect.gen(function* () {
    const files = yield* readTokenizerFiles(options.directory, options.chatTemplate)
    const vocabulary = yield* Effect.try({
      try: () => new Vocabulary(files.tokenizer),
      catch: (cause) => {
        const { reason, field, message } = cause as VocabularyError
        return new TokenizerError({ reason, file: files.path, field, detail: message })
      },
    })
    const encoder = yield* Effect.try({
      try: () => makeEncoder(files.json),
      catch: (cause) =>
        new TokenizerError({ reason: "Unsupported", file: files.path, field: null, detail: (cause as Error).message }),
    })
    const inlineLength = options.inlineLength ?? defaultInlineLength
    const maxTextLength = options.maxTextLength ?? defaultMaxTextLength
    const thread = yield* makeEncodeThread({ path: files.path, maxWaiting: options.maxWaiting ?? defaultMaxWaiting })

    const specialTexts = Object.fromEntries(
      specialNames.flatMap((name) => {
        const text = specialToken(files.config, name)
        return text === null ? [] : [[name, text]]
      }),
    )
    const template =
      files.chatTemplate === null
        ? null
        : yield* compileChatTemplate(files.chatTemplate.file, files.chatTemplate.source, specialTexts)
    const idOf = (text: string | undefined) =>
      files.tokenizer.added_tokens?.find((token) => token.content === text)?.id ?? null

    return Tokenizer.of({
      vocabularySize: vocabulary.size,
      specialTokens: {
        bos: idOf(specialTexts.bos_token),
        eos: idOf(specialTexts.eos_token),
        all: [...vocabulary.specialIds].sort((a, b) => a - b),
      },
      encode: (text, { addSpecialTokens }) => {
        if (text.length > maxTextLength) {
          const detail = `the text has ${text.length} characters, the limit is ${maxTextLength}`
          return Effect.fail(new TokenizerError({ reason: "TextTooLong", file: null, field: null, detail }))
        }
        return text.length > inlineLength
          ? thread.encode(text, addSpecialTokens)
          : Effect.sync(() => encoder.encode(text, addSpecialTokens))
      },
      decode: (tokens, { skipSpecialTokens }) => {
        const detokenizer = new Detokenizer(vocabulary, { skipSpecialTokens })
        let text = ""
        for (let i = 0; i < tokens.length; i++) text += detokenizer.push(tokens[i]!)
        return text + detokenizer.flush()
      },
      detokenizer: (detokenizerOptions) => new Detokenizer(vocabulary, detokenizerOptions),
      tokenBytes: (token) => vocabulary.bytesOf(token),
      tokenText: (token) => vocabulary.textOf(token),
      hasChatTemplate: template !== null,
      renderChat: (request) =>
        template === null
          ? Effect.fail(
              new TokenizerError({
                reason: "NoChatTemplate",
                file: options.directory,
                field: "chat_template",
                detail: "this model has no chat template; send a plain prompt, or name a template file",
              }),
            )
          : template.render(request),
    })
  })

const specialNames = ["bos_token", "eos_token", "pad_token", "unk_token"] as const
