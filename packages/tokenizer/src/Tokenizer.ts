import { availableParallelism } from "node:os"
import { makeThreadPool } from "@uniprefill/threads/ThreadPool"
import type { ThreadError } from "@uniprefill/threads/ThreadError"
import { Context, Effect, Layer, type Scope } from "effect"
import { type ChatRefusal, type ChatRequest, checkTemplate, renderChat } from "./ChatTemplate.ts"
import { Detokenizer, type DetokenizerOptions } from "./Detokenizer.ts"
import { makeEncoder } from "./Encoder.ts"
import { textBound } from "./TextBound.ts"
import { TokenizerError } from "./TokenizerError.ts"
import { readTokenizerFiles, specialToken } from "./TokenizerFiles.ts"
import type { TokenizerAnswer, TokenizerJob, TokenizerThreadData } from "./TokenizerThread.ts"
import { Vocabulary, VocabularyError } from "./Vocabulary.ts"

/** The tokenizer of the loaded model. */
export class Tokenizer extends Context.Service<
  Tokenizer,
  {
    /** One more than the largest token id. A model's output may be padded beyond it. */
    readonly vocabularySize: number
    readonly specialTokens: SpecialTokens
    /**
     * Text → token ids; texts longer than `inlineLength` on a thread of the tokenizer's pool. Unpaired surrogates become
     * U+FFFD. Interruption gives the thread back.
     *
     * Fails with `TextTooLong`, `QueueFull` or `ThreadFailed`.
     */
    readonly encode: (text: string, options: EncodeOptions) => Effect.Effect<Int32Array, TokenizerError>
    /** UTF-16 units that one token stands for at most; null where the vocabulary does not say. */
    readonly longestToken: number | null
    /** Token ids → text. Bytes that are no character become U+FFFD; ids without a token have no text. */
    readonly decode: (tokens: ArrayLike<number>, options: { readonly skipSpecialTokens: boolean }) => string
    readonly detokenizer: (options: DetokenizerOptions) => Detokenizer
    /** A token that stands alone, as log-probabilities show it: its bytes, and its text with U+FFFD for half characters. */
    readonly tokenBytes: (token: number) => Uint8Array
    readonly tokenText: (token: number) => string
    /** The id of the token that is written like this: only added tokens, such as the marks of a chat template. */
    readonly addedToken: (content: string) => number | null
    /** Null where the model has none. */
    readonly chatTemplate: string | null
    /** Messages → prompt text; long ones on a thread. Fails with `NoChatTemplate` or `ChatTemplate`. */
    readonly renderChat: (
      request: ChatRequest,
      options?: { readonly caller?: string },
    ) => Effect.Effect<string, TokenizerError>
  }
>()("@uniprefill/tokenizer/Tokenizer") {
  static readonly layer = (options: TokenizerOptions): Layer.Layer<Tokenizer, TokenizerError> =>
    Layer.effect(Tokenizer, make(options))
}

export interface EncodeOptions {
  readonly addSpecialTokens: boolean
  /** Who takes turns with the others for the threads. */
  readonly caller?: string | undefined
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
  /** Texts that may wait for a thread. */
  readonly maxWaiting?: number | undefined
  /** One of them is kept for texts of up to {@link longLength}. */
  readonly threads?: number | undefined
  /** Starts the threads with the layer, so that the first long text need not wait for one to load the vocabulary. */
  readonly warm?: boolean | undefined
}

/** Measured with needle-10m-deep: encoding costs about 0.65 µs a character, so this much stalls the loop for 3 ms. */
export const defaultInlineLength = 4_096
/** Four million tokens of usual text, 11 s of a thread. */
export const defaultMaxTextLength = 16_777_216
export const defaultMaxWaiting = 256
/** Texts longer than this share all threads but one: 40 ms. */
export const longLength = 65_536
/** A text longer than this is worth a new thread when its caller leaves: 350 ms. */
export const endThreadLength = 524_288

export const defaultThreads = (): number => Math.max(2, Math.min(4, availableParallelism()))

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
    const specialTexts = Object.fromEntries(
      specialNames.flatMap((name) => {
        const text = specialToken(files.config, name)
        return text === null ? [] : [[name, text]]
      }),
    )
    if (files.chatTemplate !== null) {
      const { file, source } = files.chatTemplate
      yield* Effect.try({
        try: () => checkTemplate(source),
        catch: (cause) =>
          new TokenizerError({
            reason: "Unsupported",
            file,
            field: "chat_template",
            detail: cause instanceof Error ? cause.message : String(cause),
          }),
      })
    }
    const template =
      files.chatTemplate === null ? null : { source: files.chatTemplate.source, specialTokens: specialTexts }

    const inlineLength = options.inlineLength ?? defaultInlineLength
    const maxTextLength = options.maxTextLength ?? defaultMaxTextLength
    const bound = textBound(files.tokenizer)
    const pool = yield* makeThreadPool<TokenizerJob, TokenizerAnswer>({
      entry,
      workerData: { path: files.path, template } satisfies TokenizerThreadData,
      name: "the tokenizer",
      threads: options.threads ?? defaultThreads(),
      maxWaiting: options.maxWaiting ?? defaultMaxWaiting,
    })
    const onThread = (job: TokenizerJob, length: number, caller: string | undefined) =>
      pool
        .run(job, { caller, long: length > longLength, endThread: length > endThreadLength })
        .pipe(Effect.mapError(fromThreadError))
    const tooLong = (length: number) => {
      const detail = `the text has ${length} characters, the limit is ${maxTextLength}`
      return Effect.fail(new TokenizerError({ reason: "TextTooLong", file: null, field: null, detail }))
    }

    if (options.warm === true) {
      const load = { _tag: "Encode", text: "warm", addSpecialTokens: false } as const
      const threads = Array.from({ length: options.threads ?? defaultThreads() }, () => Effect.ignore(pool.run(load)))
      yield* Effect.forkScoped(Effect.all(threads, { concurrency: "unbounded", discard: true }))
    }

    const encode = (text: string, { addSpecialTokens, caller }: EncodeOptions) => {
      if (text.length > maxTextLength) return tooLong(text.length)
      if (text.length <= inlineLength) return Effect.sync(() => encoder.encode(text, addSpecialTokens))
      return onThread({ _tag: "Encode", text, addSpecialTokens }, text.length, caller).pipe(
        Effect.map((answer) => (answer as TokenizerAnswer & { readonly _tag: "Tokens" }).tokens),
      )
    }

    const render = (chat: ChatRequest, { caller }: { readonly caller?: string } = {}) => {
      if (template === null) {
        return Effect.fail(
          new TokenizerError({
            reason: "NoChatTemplate",
            file: options.directory,
            field: "chat_template",
            detail: "this model has no chat template; send a plain prompt, or name a template file",
          }),
        )
      }
      const length = lengthOf(chat)
      if (length > maxTextLength) return tooLong(length)
      const rendered =
        length <= inlineLength
          ? Effect.sync(() => renderChat(template, chat))
          : onThread({ _tag: "Render", chat }, length, caller).pipe(
              Effect.map((answer) =>
                answer._tag === "Text" ? answer.text : (answer as ChatRefusal & { readonly _tag: "Refused" }),
              ),
            )
      const { file } = files.chatTemplate!
      return Effect.flatMap(rendered, (text) =>
        typeof text === "string"
          ? Effect.succeed(text)
          : Effect.fail(new TokenizerError({ reason: "ChatTemplate", file, field: text.field, detail: text.detail })),
      )
    }

    const idOf = (text: string | undefined) =>
      files.tokenizer.added_tokens?.find((token) => token.content === text)?.id ?? null

    return Tokenizer.of({
      vocabularySize: vocabulary.size,
      specialTokens: {
        bos: idOf(specialTexts.bos_token),
        eos: idOf(specialTexts.eos_token),
        all: [...vocabulary.specialIds].sort((a, b) => a - b),
      },
      encode,
      longestToken: bound.longestToken,
      decode: (tokens, { skipSpecialTokens }) => {
        const detokenizer = new Detokenizer(vocabulary, { skipSpecialTokens })
        let text = ""
        for (let i = 0; i < tokens.length; i++) text += detokenizer.push(tokens[i]!)
        return text + detokenizer.flush()
      },
      detokenizer: (detokenizerOptions) => new Detokenizer(vocabulary, detokenizerOptions),
      tokenBytes: (token) => vocabulary.bytesOf(token),
      tokenText: (token) => vocabulary.textOf(token),
      addedToken: (content) => idOf(content),
      chatTemplate: template?.source ?? null,
      renderChat: render,
    })
  })

/** About what a chat costs to render: its text, and some for each message. */
const lengthOf = ({ messages }: ChatRequest): number => {
  let length = 0
  for (const { content } of messages) {
    length += 128
    if (typeof content === "string") length += content.length
    else for (const { text } of content ?? []) length += text.length + 16
  }
  return length
}

const fromThreadError = ({ reason, detail }: ThreadError): TokenizerError =>
  new TokenizerError({ reason: reason === "QueueFull" ? "QueueFull" : "ThreadFailed", file: null, field: null, detail })

const specialNames = ["bos_token", "eos_token", "pad_token", "unk_token"] as const

// Beside this module: .ts when run from source (Node strips the types), .js when compiled.
const entry = new URL(
  import.meta.url.endsWith(".ts") ? "./tokenizerThreadMain.ts" : "./tokenizerThreadMain.js",
  import.meta.url,
)
