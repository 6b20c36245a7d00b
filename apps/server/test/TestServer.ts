import { copyFile, mkdtemp, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { createRequire } from "node:module"
import { connect } from "node:net"
import { dirname, join } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Context, Effect, Layer, Logger, Scope } from "effect"
import { HttpServer } from "effect/http"
import OpenAI from "openai"
import * as HttpApp from "uniprefill/http/HttpApp"
import type { FailureInjectionOptions } from "uniprefill/http/FailureInjection"
import type { CorsOptions } from "uniprefill/http/Cors"
import * as HttpListener from "uniprefill/http/HttpListener"
import { Dropping } from "uniprefill/answers/Dropping"
import { Shadow } from "uniprefill/answers/Shadow"
import { ServedModel } from "uniprefill/model/ServedModel"
import { type ServerLimits, serverLimits } from "uniprefill/http/ServerLimits"
import { closeScope, FakeEngine } from "./FakeEngine.ts"

export const modelDirectory = dirname(
  createRequire(import.meta.url).resolve("@uniprefill/needle-10m-deep/package.json"),
)

const served = ({ pFloor = null, sloP = null, ttftSloMs }: TestServerOptions) =>
  Layer.succeed(ServedModel, {
    names: ["needle", "needle-alias"],
    root: "models/needle",
    createdSeconds: 1_700_000_000,
    maxModelLen: 512,
    vocabSize: 4096,
    eosTokenIds: [1, 201],
    generation: { temperature: 0, topP: undefined, topK: undefined, minP: undefined, repetitionPenalty: undefined },
    scheduleP: [0.9, 0.95],
    pFloor,
    sloP,
    ttftSloMs,
  })

export interface LogLine {
  readonly message: string
  readonly fields: Readonly<Record<string, unknown>>
}

export interface TestServer {
  readonly url: string
  readonly port: number
  readonly engine: FakeEngine
  /** The operator's switch. */
  readonly dropping: { enabled: boolean }
  readonly client: OpenAI
  readonly logs: Array<LogLine>
  readonly post: (path: string, body: unknown, headers?: Record<string, string>) => Promise<Response>
  readonly close: () => Promise<void>
}

export interface TestServerOptions {
  readonly apiKeys?: ReadonlyArray<string>
  readonly limits?: Partial<ServerLimits>
  readonly cors?: CorsOptions
  readonly trustGateway?: boolean
  readonly failures?: FailureInjectionOptions
  /** Text of a template in place of the model's; null for none. */
  readonly chatTemplate?: string | null
  /** The least p that requests may ask for; none: they may only raise it. */
  readonly pFloor?: number | null
  /** p of requests that would be late otherwise, and when a first token is due, ms. */
  readonly sloP?: number | null
  readonly ttftSloMs?: number
}

/** The whole HTTP application over a fake engine and the embedded model's tokenizer, on a port of its own. */
export const startServer = async (options: TestServerOptions = {}): Promise<TestServer> => {
  const engine = new FakeEngine()
  const logs: Array<LogLine> = []
  const logger = Logger.map(Logger.formatStructured, ({ message, annotations }) => {
    logs.push({ message: String(message), fields: annotations })
  })
  const limits = { ...serverLimits, ...options.limits }
  const dropping = { enabled: true }
  const app = HttpApp.layer({ ...options, apiKeys: options.apiKeys ?? [], limits, stallSeconds: 60 }).pipe(
    Layer.provideMerge(HttpListener.layer({ host: "127.0.0.1", port: 0, limits, closeGraceMs: 100 })),
    Layer.provide([
      Shadow.none,
      Layer.succeed(Dropping, dropping),
      engine.layer,
      served(options),
      await tokenizerOf(options.chatTemplate),
    ]),
    Layer.provide(Logger.layer([logger])),
    Layer.provide(NodeServices.layer),
  )
  const scope = Scope.makeUnsafe()
  const context = await Effect.runPromise(Layer.buildWithScope(app, scope))
  const { address } = Context.get(context, HttpServer.HttpServer)
  const port = (address as { readonly port: number }).port
  const url = `http://127.0.0.1:${port}`
  return {
    url,
    port,
    engine,
    dropping,
    client: new OpenAI({ baseURL: `${url}/v1`, apiKey: options.apiKeys?.[0] ?? "none", maxRetries: 0 }),
    logs,
    post: (path, body, headers = {}) =>
      fetch(`${url}${path}`, {
        method: "POST",
        headers: { "content-type": "application/json", ...headers },
        body: typeof body === "string" ? body : JSON.stringify(body),
      }),
    close: () => closeScope(scope),
  }
}

/** The embedded model's tokenizer, with another template or none. */
const tokenizerOf = async (chatTemplate: string | null | undefined) => {
  if (chatTemplate === undefined) return Tokenizer.layer({ directory: modelDirectory })
  const folder = await mkdtemp(join(tmpdir(), "uniprefill-template-"))
  await copyFile(join(modelDirectory, "tokenizer.json"), join(folder, "tokenizer.json"))
  if (chatTemplate !== null) await writeFile(join(folder, "chat_template.jinja"), chatTemplate)
  return Tokenizer.layer({ directory: folder })
}

/** Sends raw bytes and returns everything that comes back until the server closes. */
export const rawExchange = (port: number, bytes: string): Promise<string> =>
  new Promise((resolve, reject) => {
    let received = ""
    const socket = connect(port, "127.0.0.1", () => socket.write(bytes))
    socket.setEncoding("utf8")
    socket.on("data", (chunk: string) => (received += chunk))
    socket.on("close", () => resolve(received))
    socket.on("error", reject)
  })

/** Waits until `condition` holds, however long this machine takes: the test's own limit ends it where it never does. */
export const eventually = async (condition: () => boolean | Promise<boolean>): Promise<void> => {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 5))
}

export const collect = async <A>(stream: AsyncIterable<A>): Promise<Array<A>> => {
  const items: Array<A> = []
  for await (const item of stream) items.push(item)
  return items
}
