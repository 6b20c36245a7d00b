import { Effect, Stream } from "effect"
import { HttpServerResponse } from "effect/http"
import { turn } from "./Slices.ts"

/** Characters of a string that are written without giving others a turn. */
const sliceLength = 65_536

/** Values that are, those inside others counted too. */
const mostValues = 2_048

/**
 * JSON as pieces of text, none of which takes long to make: long lists and strings are written part by part. The pieces
 * together are what JSON.stringify gives.
 */
export function* jsonPieces(value: unknown): Generator<string> {
  if (typeof value === "string" && value.length > sliceLength) yield* stringPieces(value)
  else if (typeof value === "string" || !isLarge(value)) yield JSON.stringify(value) ?? "null"
  else if (isList(value)) yield* listPieces(value)
  else {
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

/** Elements that are light go together. */
function* listPieces(list: ReadonlyArray<unknown> | Int32Array): Generator<string> {
  yield "["
  for (let from = 0; from < list.length;) {
    let to = from
    let weight = 0
    while (to < list.length && (weight += weightOf(list[to], mostValues)) <= mostValues) to++
    yield from === 0 ? "" : ","
    if (to > from) yield JSON.stringify(Array.from(list.slice(from, to))).slice(1, -1)
    else yield* jsonPieces(list[to++])
    from = to
  }
  yield "]"
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

/** Whether writing it takes so long that others should have a turn. */
const isLarge = (value: unknown): boolean => weightOf(value, mostValues) > mostValues

/** How many values it is, itself included, and what its strings are worth; at some number above `most` no more are counted. */
const weightOf = (value: unknown, most: number): number => {
  if (typeof value === "string") return 1 + (value.length * mostValues) / sliceLength
  if (value instanceof Int32Array) return 1 + value.length
  if (typeof value !== "object" || value === null) return 1
  let weight = 1
  for (const of of isList(value) ? value : Object.values(value)) {
    weight += weightOf(of, most - weight)
    if (weight > most) break
  }
  return weight
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
