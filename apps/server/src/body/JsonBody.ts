import { brotliDecompressSync, gunzipSync, inflateSync, zstdDecompressSync } from "node:zlib"
import { cut } from "@uniprefill/openai/Text"
import { type LongestText, textExcess } from "../answers/TextExcess.ts"
import { type JsonLimits, scanJson } from "./JsonScan.ts"

export interface BodyLimits extends JsonLimits {
  /** Bytes of a request body, before and after it is decompressed. */
  readonly bodyBytes: number
  /** Long texts that could be no prompt are refused, before another thread is given them. */
  readonly longestText: LongestText
}

export type BodyEncoding = keyof typeof decompress

/** What a thread is given. */
export interface BodyJob {
  readonly bytes: Uint8Array
  readonly encoding: BodyEncoding | null
  readonly longestText: LongestText
}

/** The value of a body, or the status and the words of its refusal. */
export type ParsedBody =
  | { readonly value: unknown; readonly refused: null }
  | { readonly refused: { readonly status: 400 | 413; readonly message: string; readonly param: string | null } }

const decompress = {
  gzip: gunzipSync,
  deflate: inflateSync,
  br: brotliDecompressSync,
  zstd: zstdDecompressSync,
} as const

export const bodyEncodings = Object.keys(decompress) as ReadonlyArray<BodyEncoding>

/**
 * A request's body as a value. Beyond JSON.parse:
 *
 * - long lists of integers are `Int32Array`s, which other threads can be given without copying;
 * - lone surrogates are U+FFFD, so that no text that is made of it is malformed;
 * - a `seed` that a double cannot hold is a bigint.
 */
export const parseBody = (bytes: Uint8Array, encoding: BodyEncoding | null, limits: BodyLimits): ParsedBody => {
  let plain = bytes
  if (encoding !== null) {
    try {
      plain = decompress[encoding](bytes, { maxOutputLength: limits.bodyBytes })
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== "ERR_BUFFER_TOO_LARGE") {
        return refuse(400, `request body is not ${encoding}: ${(cause as Error).message}`)
      }
      return refuse(413, `request body exceeds the limit of ${limits.bodyBytes} bytes once decompressed`)
    }
  }
  if (plain.byteLength === 0) return refuse(400, "request body is not JSON: it is empty")
  const excess = scanJson(plain, limits)
  if (excess !== null) return refuse(400, `request body ${excess}`)
  try {
    const text = utf8.decode(plain)
    const value: unknown = longSeed.test(text) ? JSON.parse(text, exactSeed as JsonReviver) : JSON.parse(text)
    const tooLong = findExcess(value, "", limits.longestText)
    if (tooLong !== null) return tooLong
    return { value: compact(value, loneSurrogate.test(text)), refused: null }
  } catch (cause) {
    return refuse(400, `request body is not JSON: ${(cause as Error).message.toWellFormed()}`)
  }
}

/** Memory of a parsed body that can be given to another thread. */
export const buffersOf = (value: unknown, into: Array<ArrayBuffer> = []): Array<ArrayBuffer> => {
  if (value instanceof Int32Array) into.push(value.buffer as ArrayBuffer)
  else if (typeof value === "object" && value !== null) for (const part of Object.values(value)) buffersOf(part, into)
  return into
}

const refuse = (status: 400 | 413, message: string, param: string | null = null): ParsedBody => ({
  refused: { status, message, param },
})

/** Shorter texts are looked at by whoever knows what they are for; these are left here. */
const shortestRefused = 1_048_576

/** The refusal of the first text that is too long. */
const findExcess = (value: unknown, path: string, longest: LongestText): ParsedBody | null => {
  if (typeof value === "string") {
    const excess = value.length < shortestRefused ? null : textExcess(path, value.length, longest)
    return excess === null ? null : refuse(400, excess, path)
  }
  if (typeof value !== "object" || value === null) return null
  const isArray = Array.isArray(value)
  if (isArray && typeof value[0] === "number" && value.every((of) => typeof of === "number")) return null
  for (const [key, of] of Object.entries(value)) {
    if (typeof of !== "string" && typeof of !== "object") continue
    const name = cut(key, 64).toWellFormed()
    const found = findExcess(of, isArray ? `${path}[${name}]` : path === "" ? name : `${path}.${name}`, longest)
    if (found !== null) return found
  }
  return null
}

const utf8 = new TextDecoder("utf-8", { fatal: true })

/** Only escapes can write half a surrogate pair. */
const loneSurrogate = /\\u[dD][89a-fA-F]/

const longSeed = /"seed"\s*:\s*-?\d{16}/

type JsonReviver = (this: unknown, key: string, value: unknown) => unknown

const exactSeed = (key: string, value: unknown, { source }: { readonly source?: string }): unknown =>
  key === "seed" && typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d{1,40}$/.test(source ?? "")
    ? BigInt(source!)
    : value

/** Shorter lists cost no more as they are. */
const shortestCompacted = 16

const compact = (value: unknown, mayHoldHalves: boolean): unknown => {
  if (typeof value === "string") return mayHoldHalves ? value.toWellFormed() : value
  if (typeof value !== "object" || value === null) return value
  if (Array.isArray(value)) {
    if (value.length >= shortestCompacted && value.every(isInt32)) return Int32Array.from(value)
    for (let i = 0; i < value.length; i++) value[i] = compact(value[i], mayHoldHalves)
    return value
  }
  const entries = Object.entries(value).map(
    ([key, of]) => [mayHoldHalves ? key.toWellFormed() : key, compact(of, mayHoldHalves)] as const,
  )
  return Object.fromEntries(entries)
}

const isInt32 = (value: unknown): boolean => value === ((value as number) | 0)
