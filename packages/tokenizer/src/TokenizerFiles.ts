import { Effect, Option, Schema } from "effect"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { TokenizerError } from "./TokenizerError.ts"

/** The files of a model directory that say how text becomes tokens, read and checked once. */
export interface TokenizerFiles {
  /** Path of tokenizer.json. */
  readonly path: string
  /** tokenizer.json as it is, and the checked part of it. */
  readonly json: object
  readonly tokenizer: TokenizerJson
  readonly config: TokenizerConfig
  readonly chatTemplate: { readonly file: string; readonly source: string } | null
}

const AddedToken = Schema.Struct({
  id: Schema.Int,
  content: Schema.String,
  special: Schema.optionalKey(Schema.Boolean),
  lstrip: Schema.optionalKey(Schema.Boolean),
  rstrip: Schema.optionalKey(Schema.Boolean),
})

/** The parts of tokenizer.json that this package itself reads; the rest is for @huggingface/tokenizers. */
export const TokenizerJson = Schema.Struct({
  added_tokens: Schema.optionalKey(Schema.Array(AddedToken)),
  model: Schema.Struct({
    type: Schema.optionalKey(Schema.String),
    vocab: Schema.Unknown,
    byte_fallback: Schema.optionalKey(Schema.NullOr(Schema.Boolean)),
  }),
  normalizer: Schema.optionalKey(Schema.Unknown),
  pre_tokenizer: Schema.optionalKey(Schema.Unknown),
  decoder: Schema.NullOr(Schema.Record(Schema.String, Schema.Unknown)),
})
export type TokenizerJson = typeof TokenizerJson.Type

const SpecialToken = Schema.NullOr(Schema.Union([Schema.String, Schema.Struct({ content: Schema.String })]))
const NamedTemplate = Schema.Struct({ name: Schema.String, template: Schema.String })

export const TokenizerConfig = Schema.Struct({
  bos_token: Schema.optionalKey(SpecialToken),
  eos_token: Schema.optionalKey(SpecialToken),
  pad_token: Schema.optionalKey(SpecialToken),
  unk_token: Schema.optionalKey(SpecialToken),
  chat_template: Schema.optionalKey(Schema.NullOr(Schema.Union([Schema.String, Schema.Array(NamedTemplate)]))),
})
export type TokenizerConfig = typeof TokenizerConfig.Type

/**
 * Reads tokenizer.json and, where they exist, tokenizer_config.json and chat_template.jinja. `chatTemplate` names a file
 * that takes the place of the directory's own template.
 */
export const readTokenizerFiles = Effect.fnUntraced(function* (directory: string, chatTemplate: string | undefined) {
  const path = join(directory, "tokenizer.json")
  const json = yield* parseJson(path, yield* requireText(path))
  const tokenizer = yield* decodeFields(path, json, TokenizerJson)
  const configPath = join(directory, "tokenizer_config.json")
  const configText = yield* readText(configPath)
  const config = Option.isNone(configText)
    ? {}
    : yield* decodeFields(configPath, yield* parseJson(configPath, configText.value), TokenizerConfig)
  return {
    path,
    json: json as object,
    tokenizer,
    config,
    chatTemplate: yield* findTemplate(directory, config, configPath, chatTemplate),
  } satisfies TokenizerFiles
})

/** The text of a special token of tokenizer_config.json, or null. */
export const specialToken = (
  config: TokenizerConfig,
  name: "bos_token" | "eos_token" | "pad_token" | "unk_token",
): string | null => {
  const token = config[name] ?? null
  return token === null || typeof token === "string" ? token : token.content
}

const findTemplate = Effect.fnUntraced(function* (
  directory: string,
  config: TokenizerConfig,
  configPath: string,
  override: string | undefined,
) {
  if (override !== undefined) return { file: override, source: yield* requireText(override) }
  const file = join(directory, "chat_template.jinja")
  const own = yield* readText(file)
  if (Option.isSome(own)) return { file, source: own.value }
  const template = config.chat_template ?? null
  if (template === null) return null
  if (typeof template === "string") return { file: configPath, source: template }
  const named = template.find((candidate) => candidate.name === "default")
  if (named !== undefined) return { file: configPath, source: named.template }
  return yield* new TokenizerError({
    reason: "InvalidField",
    file: configPath,
    field: "chat_template",
    detail: `no template is named "default"; there are ${template.map((t) => `"${t.name}"`).join(", ") || "none"}`,
  })
})

const readText = (file: string): Effect.Effect<Option.Option<string>, TokenizerError> =>
  Effect.tryPromise({ try: () => readFile(file, "utf8"), catch: (cause) => cause as NodeJS.ErrnoException }).pipe(
    Effect.map(Option.some),
    Effect.catch((cause) =>
      cause.code === "ENOENT"
        ? Effect.succeedNone
        : Effect.fail(
            new TokenizerError({ reason: "MissingFile", file, field: null, detail: `cannot read: ${cause.message}` }),
          ),
    ),
  )

const requireText = Effect.fnUntraced(function* (file: string) {
  const text = yield* readText(file)
  if (Option.isSome(text)) return text.value
  return yield* new TokenizerError({ reason: "MissingFile", file, field: null, detail: "no such file" })
})

const parseJson = (file: string, text: string): Effect.Effect<unknown, TokenizerError> =>
  Effect.try({
    try: (): unknown => JSON.parse(text),
    catch: (cause) =>
      new TokenizerError({ reason: "InvalidJson", file, field: null, detail: (cause as SyntaxError).message }),
  })

/** `["added_tokens"][0]["content"]` as elsewhere: `added_tokens[0].content`. */
const fieldPath = (at: string): string => at.replaceAll(/\["([^"]*)"\]/g, ".$1").replace(/^\./, "")

const decodeFields = <A>(file: string, json: unknown, schema: Schema.Decoder<A>): Effect.Effect<A, TokenizerError> =>
  Schema.decodeUnknownEffect(schema)(json).pipe(
    Effect.mapError((error) => {
      // "Expected string, got 3\n  at ["added_tokens"][0]["content"]": the path is the field.
      const [detail, at] = error.message.split(/\n\s*at /)
      return new TokenizerError({
        reason: "InvalidField",
        file,
        field: at === undefined ? null : fieldPath(at),
        detail: detail!,
      })
    }),
  )
