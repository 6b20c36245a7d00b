import { giveWay } from "@uniprefill/threads/giveWay"
import { serveThread } from "@uniprefill/threads/serveThread"
import { type BodyJob, type BodyLimits, buffersOf, type ParsedBody, parseBody } from "./JsonBody.ts"

// Entry of the threads that parse large bodies: whoever sends one waits, not the others.
giveWay(10)
serveThread<Omit<BodyLimits, "longestText">, BodyJob, ParsedBody>((limits) => ({ bytes, encoding, longestText }) => {
  const parsed = parseBody(bytes, encoding, { ...limits, longestText })
  return { value: parsed, transfer: parsed.refused === null ? buffersOf(parsed.value) : [] }
})
