import { Effect, Stream } from "effect"
import { HttpServerResponse } from "effect/http"
import { turn } from "./Slices.ts"

/** Length from which a value is written in slices. */
const sliceLength = 65_536

/** Elements of a list, and characters of a string, that are written without giving others a turn. */
const mostElements = 2_048

/**
 * JSON as pieces of text, none of which takes long to make: long lists and strings are written part by part. The pieces
 * together are what JSON.stringify gives.
 */
export function* jsonPieces(value: unknown): Generator<string> {
  if (typeof value === "string" && value.length > sliceLength) yield* stringPieces(value)
  else if (!isLarge(value)) yield JSON.stringify(value) ?? "null"
  else if (isList(value)) {
    yield "["
    for (let i = 0; i < value.length; i += mostElements) {
      const part = Array.from(value.slice(i, i + mostElements))
      yield i === 0 ? "" : ","
      if (part.some(isLarge)) {
        for (let k = 0; k < part.length; k++) {
          if (k > 0) yield ","
          yield* jsonPieces(part[k])
        }
      } else yield JSON.stringify(part).slice(1, -1)
    }
    yield "]"
  } else {
    let first = true
    for (const [key, of] of Object.entries(value as object)) {
      if (of === undefined) continue
      yield `${first ? "{" : ","}${JSON.stringify(key)}:`
      yield* jsonPieces(of)
      first = false
    }
    yield first ? "{}" : "}"
  }
}

/** A response with a value as JSON: at once where that takes no time, else in slices between which others have a turn. */
export const slicedJson = (value: unknown): Effect.Effect<HttpServerResponse.HttpServerResponse> => {
  if (!isLarge(value)) return Effect.sync(() => HttpServerResponse.jsonUnsafe(value))
  const pieces = jsonPieces(value)
  const next = Effect.sync((): readonly [Uint8Array] | undefined => {
    let text = ""
    while (text.length < sliceLength) {
      const { value: piece, done } = pieces.next()
      if (done === true) break
      text += piece
    }
    return text === "" ? undefined : [Buffer.from(text, "utf8")]
  })
  const body = Stream.unfold(0, () =>
    Effect.map(Effect.andThen(turn, next), (part) => (part === undefined ? undefined : ([part[0], 0] as const))),
  )
  return Effect.succeed(HttpServerResponse.stream(body, { contentType: "application/json" }))
}

const isList = (value: unknown): value is ReadonlyArray<unknown> | Int32Array =>
  Array.isArray(value) || value instanceof Int32Array

/** Whether there is a long list or string in it: looked for as deep as answers have any. */
const isLarge = (value: unknown): boolean => {
  if (typeof value === "string") return value.length > sliceLength
  if (value instanceof Int32Array) return true
  if (Array.isArray(value)) return value.length > mostElements || value.some(isLarge)
  return typeof value === "object" && value !== null && Object.values(value).some(isLarge)
}

function* stringPieces(text: string): Generator<string> {
  yield '"'
  for (let from = 0; from < text.length;) {
    let to = Math.min(text.length, from + sliceLength)
    const last = text.charCodeAt(to - 1)
    if (to < text.length && last >= 0xd800 && last <= 0xdbff) to++
    yield JSON.stringify(text.slice(from, to)).slice(1, -1)
    from = to
  }
  yield '"'
}
