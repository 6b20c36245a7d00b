import type { PrefixEvent } from "@uniprefill/engine/PrefixEvents"
import { Effect, type Scope } from "effect"
import type { Publisher, Router } from "zeromq"
import { UsageError } from "../cli/UsageError.ts"
import { encodeBatch } from "./KvEventBatch.ts"
import type { KvEventsConfig } from "./KvEventsConfig.ts"

/**
 * Publishes what changes in the prefix cache over ZeroMQ, for gateways that send a request to where its prefix is.
 *
 * Every message has three frames: the topic, a sequence number (8 bytes, big-endian, from 0), and a batch. A subscriber that
 * sees a gap asks the replay socket for all batches from a number on; the answer ends with the number −1.
 */
export interface KvEventPublisher {
  readonly publish: (event: PrefixEvent) => void
  /** Where it listens: the endpoint with the port that it got. */
  readonly endpoint: string
  readonly replayEndpoint: string | null
}

export const makeKvEventPublisher = (
  config: KvEventsConfig,
  topic: string,
  blockSize: number,
): Effect.Effect<KvEventPublisher, UsageError, Scope.Scope> =>
  Effect.gen(function* () {
    const zmq = yield* Effect.tryPromise({
      try: () => import("zeromq"),
      catch: (cause) => {
        // Stacks follow in the loader's message.
        const [reason] = (cause as Error).message.split("\n", 1)
        const advice = "`npm rebuild zeromq` builds it, which needs CMake and a compiler"
        return new UsageError({ message: `--kv-events-config: ZeroMQ cannot be loaded: ${reason}; ${advice}` })
      },
    })

    const bind = <Socket extends Publisher | Router>(socket: Socket, endpoint: string) =>
      Effect.acquireRelease(
        Effect.tryPromise({
          try: async () => {
            await socket.bind(endpoint)
            return socket
          },
          catch: (cause) => new UsageError({ message: `--kv-events-config: ${endpoint}: ${(cause as Error).message}` }),
        }),
        () => Effect.sync(() => socket.close()),
      )
    const publisher = yield* bind(
      new zmq.Publisher({ sendHighWaterMark: config.highWaterMark, linger: 0 }),
      config.endpoint,
    )
    const buffer = new ReplayBuffer(config.bufferSteps)
    const replay =
      config.replayEndpoint === null ? null : yield* bind(new zmq.Router({ linger: 0 }), config.replayEndpoint)
    if (replay !== null) yield* Effect.forkScoped(answerReplays(replay, buffer))
    return {
      endpoint: publisher.lastEndpoint ?? config.endpoint,
      replayEndpoint: replay?.lastEndpoint ?? null,
      publish: new Batches(publisher, topic, blockSize, buffer).add,
    }
  })

const eight = (number: bigint): Buffer => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigInt64BE(number)
  return bytes
}

/** The last batches, by their number. */
class ReplayBuffer {
  readonly #payloads: Array<Uint8Array> = []
  readonly #capacity: number
  #next = 0

  constructor(capacity: number) {
    this.#capacity = capacity
  }

  /** Returns the batch's number. */
  push(payload: Uint8Array): bigint {
    this.#payloads[this.#next % this.#capacity] = payload
    return BigInt(this.#next++)
  }

  *from(start: bigint): Generator<readonly [number: bigint, payload: Uint8Array]> {
    const oldest = Math.max(0, this.#next - this.#capacity)
    for (let n = Math.max(oldest, Number(start)); n < this.#next; n++)
      yield [BigInt(n), this.#payloads[n % this.#capacity]!]
  }
}

/** Gathers what happens in one turn of the event loop, a step's events, into one message. */
class Batches {
  readonly #publisher: Publisher
  readonly #topic: string
  readonly #blockSize: number
  readonly #buffer: ReplayBuffer
  #events: Array<PrefixEvent> = []
  #sent: Promise<void> = Promise.resolve()

  constructor(publisher: Publisher, topic: string, blockSize: number, buffer: ReplayBuffer) {
    this.#publisher = publisher
    this.#topic = topic
    this.#blockSize = blockSize
    this.#buffer = buffer
  }

  readonly add = (event: PrefixEvent): void => {
    if (this.#events.push(event) === 1) setImmediate(() => this.#flush())
  }

  #flush(): void {
    const payload = encodeBatch(this.#events, this.#blockSize, Date.now() / 1000)
    this.#events = []
    const number = eight(this.#buffer.push(payload))
    // A socket sends one message at a time; a closed one no more.
    this.#sent = this.#sent.then(() => this.#publisher.send([this.#topic, number, payload])).catch(() => {})
  }
}

const answerReplays = (socket: Router, buffer: ReplayBuffer): Effect.Effect<void> =>
  Effect.promise(async () => {
    for await (const frames of socket) {
      const [client, empty, start] = frames
      if (frames.length !== 3 || start!.length !== 8) continue
      for (const [number, payload] of buffer.from(start!.readBigInt64BE(0))) {
        await socket.send([client!, empty!, eight(number), payload])
      }
      await socket.send([client!, empty!, eight(-1n), ""])
    }
  }).pipe(Effect.catchCause(() => Effect.void))
