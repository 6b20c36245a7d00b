import { giveWay } from "@uniprefill/threads/giveWay"
import { serveThread } from "@uniprefill/threads/serveThread"
import { type BodyEncoding, type BodyLimits, buffersOf, type ParsedBody, parseBody } from "./JsonBody.ts"

// Entry of the threads that parse large bodies: whoever sends one waits, not the others.
giveWay(10)
serveThread<BodyLimits, { bytes: Uint8Array; encoding: BodyEncoding | null }, ParsedBody>(
  (limits) =>
    ({ bytes, encoding }) => {
      const parsed = parseBody(bytes, encoding, limits)
      return { value: parsed, transfer: parsed.refused === null ? buffersOf(parsed.value) : [] }
    },
)
