import { readFileSync } from "node:fs"
import { parentPort, workerData } from "node:worker_threads"
import { type Encoder, makeEncoder } from "./Encoder.ts"
import type { EncodeReply, EncodeRequest } from "./EncodeThread.ts"

// Entry of the encoding thread: answers one text at a time.
const port = parentPort!
const { path } = workerData as { readonly path: string }
let encoder: Encoder | undefined

port.on("message", ({ id, text, addSpecialTokens }: EncodeRequest) => {
  let reply: EncodeReply
  try {
    encoder ??= makeEncoder(JSON.parse(readFileSync(path, "utf8")) as object)
    reply = { id, tokens: encoder.encode(text, addSpecialTokens), error: null }
  } catch (cause) {
    reply = { id, tokens: null, error: cause instanceof Error ? cause.message : String(cause) }
  }
  port.postMessage(reply, reply.tokens === null ? [] : [reply.tokens.buffer as ArrayBuffer])
})
