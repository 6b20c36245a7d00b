import { Effect, Layer } from "effect"
import { HttpServer } from "effect/http"
import { describe, expect, it } from "vitest"
import * as HttpListener from "uniprefill/http/HttpListener"
import { serverLimits } from "uniprefill/http/ServerLimits"

describe("HttpListener", () => {
  it("answers 503 with Retry-After until an app is mounted, instead of leaving the client hanging", async () => {
    const program = Effect.gen(function* () {
      const listening = yield* Layer.build(
        HttpListener.layer({ host: "127.0.0.1", port: 0, limits: serverLimits, closeGraceMs: 100 }),
      )
      const { address } = yield* Effect.provideContext(HttpServer.HttpServer, listening)
      const url = HttpServer.formatAddress(address)
      const early = yield* Effect.promise(() => fetch(`${url}/ready`))
      expect(early.status).toBe(503)
      expect(early.headers.get("retry-after")).toBe("1")
      expect(yield* Effect.promise(() => early.json())).toMatchObject({
        error: { message: "the model is being loaded", code: 503 },
      })
    })
    await Effect.runPromise(Effect.scoped(program))
  })
})
