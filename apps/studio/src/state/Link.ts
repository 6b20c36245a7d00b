import { Schema } from "effect"

/** What a link holds: a whole scenario, and where to look. */
export interface Linked {
  readonly scenario: unknown
  readonly step: number | null
}

const version = 1

const Content = Schema.Struct({ scenario: Schema.Unknown, step: Schema.NullOr(Schema.Int) })

/** A link that cannot be followed, and why. */
export class LinkError extends Error {
  override readonly name = "LinkError"
}

/** The part of an address after the `#`. */
export const encodeLink = async (linked: Linked): Promise<string> => {
  const bytes = await through(new TextEncoder().encode(JSON.stringify(linked)), new CompressionStream("deflate-raw"))
  return `v${version}.${toBase64Url(bytes)}`
}

/** Null for an address that holds no link. Fails with LinkError. */
export const decodeLink = async (hash: string): Promise<Linked | null> => {
  const text = hash.replace(/^#/, "")
  if (text === "") return null
  const [, made, data] = /^v(\d+)\.([\w-]*)$/.exec(text) ?? []
  if (made === undefined || data === undefined)
    throw new LinkError("the address holds something that is no link of this page")
  if (Number(made) !== version)
    throw new LinkError(
      `the link was made by another version of this page (links of version ${made}; this page reads version ${version})`,
    )
  try {
    const bytes = await through(fromBase64Url(data), new DecompressionStream("deflate-raw"))
    return Schema.decodeUnknownSync(Content)(JSON.parse(new TextDecoder().decode(bytes)))
  } catch {
    throw new LinkError("the link is damaged: part of it may have been cut off")
  }
}

const through = async (bytes: Uint8Array<ArrayBuffer>, transform: CompressionStream | DecompressionStream) =>
  new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(transform)).arrayBuffer())

const toBase64Url = (bytes: Uint8Array): string => {
  let binary = ""
  for (const byte of bytes) binary += String.fromCharCode(byte)
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")
}

const fromBase64Url = (text: string): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (character) => character.charCodeAt(0))
