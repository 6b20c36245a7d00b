import { decode } from "@msgpack/msgpack"
import type { PrefixEvent } from "@uniprefill/engine/PrefixEvents"
import { Effect, Exit, Result, Scope } from "effect"
import { blockHash, encodeBatch } from "uniprefill/gateway/KvEventBatch"
import { makeKvEventPublisher } from "uniprefill/gateway/KvEventPublisher"
import { decodeKvEventsConfig } from "uniprefill/gateway/KvEventsConfig"
import { afterEach, describe, expect, it, test } from "vitest"
import { Dealer, Subscriber } from "zeromq"

const key = (n: number) => Buffer.alloc(32, n).toString("base64")
const stored = (n: number, parent: number | null): PrefixEvent => ({
  _tag: "Stored",
  key: key(n),
  parent: parent === null ? null : key(parent),
  tokens: Int32Array.of(n, n + 1),
})
const removed = (n: number): PrefixEvent => ({ _tag: "Removed", key: key(n) })

const read = (payload: Uint8Array) => decode(payload, { useBigInt64: true }) as [number, Array<any>, number]

describe("a batch", () => {
  it("has vLLM's shape: pages of one prefix together, in the order in which they changed", () => {
    const events = [
      stored(1, null),
      stored(2, 1),
      stored(7, 1),
      removed(2),
      removed(7),
      stored(3, 1),
      { _tag: "Cleared" } as const,
    ]
    const [seconds, batch, rank] = read(encodeBatch(events, 2, 12.5))
    expect([seconds, rank]).toEqual([12.5, 0])
    const hash = (n: number) => blockHash(key(n))
    expect(batch).toEqual([
      ["BlockStored", [hash(1), hash(2)], null, [1, 2, 2, 3], 2, null, "GPU", null, null, 0],
      ["BlockStored", [hash(7)], hash(1), [7, 8], 2, null, "GPU", null, null, 0],
      ["BlockRemoved", [hash(2), hash(7)], "GPU", 0],
      ["BlockStored", [hash(3)], hash(1), [3, 4], 2, null, "GPU", null, null, 0],
      ["AllBlocksCleared"],
    ])
  })
})

describe("the publisher", () => {
  const scope = { current: Scope.makeUnsafe() }
  afterEach(async () => {
    await Effect.runPromise(Scope.close(scope.current, Exit.void))
    scope.current = Scope.makeUnsafe()
  })

  const start = (fields: object = {}) => {
    const config = { endpoint: "tcp://127.0.0.1:*", replay_endpoint: "tcp://127.0.0.1:*", ...fields }
    const decoded = Result.getOrThrow(decodeKvEventsConfig(JSON.stringify(config)))
    return Effect.runPromise(makeKvEventPublisher(decoded!, "kv@pod@model", 2).pipe(Scope.provide(scope.current)))
  }

  it("numbers its messages, and gives those again that somebody missed", async () => {
    const publisher = await start({ buffer_steps: 3 })
    const subscriber = new Subscriber()
    subscriber.connect(publisher.endpoint)
    subscriber.subscribe("kv@")
    // A subscriber hears what comes after it is known: until then nothing is lost, but it is not heard.
    const first = subscriber.receive()
    const heard = { yet: false }
    void first.then(() => (heard.yet = true))
    let sent = 0
    while (!heard.yet || sent < 5) {
      publisher.publish(stored(sent++ % 250, null))
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    const [topic, number, payload] = await first
    expect(topic!.toString()).toBe("kv@pod@model")
    expect(read(payload!)[1][0][0]).toBe("BlockStored")
    publisher.publish(removed(1))
    publisher.publish(stored(9, 1))
    const later = await (async () => {
      for (;;) {
        const frames = await subscriber.receive()
        if (read(frames[2]!)[1].length === 2) return frames
      }
    })()
    expect(later[1]!.readBigInt64BE(0)).toBeGreaterThan(number!.readBigInt64BE(0))
    subscriber.close()

    const dealer = new Dealer()
    dealer.connect(publisher.replayEndpoint!)
    await dealer.send(["garbage"])
    await dealer.send(["", Buffer.alloc(8)])
    const again: Array<bigint> = []
    for (;;) {
      const [empty, at, body] = await dealer.receive()
      expect(empty!.length).toBe(0)
      again.push(at!.readBigInt64BE(0))
      if (again.at(-1) === -1n) break
      expect(read(body!)[2]).toBe(0)
    }
    dealer.close()
    // As many as are kept, the last of them the newest.
    const newest = later[1]!.readBigInt64BE(0)
    const kept = [newest - 2n, newest - 1n, newest].filter((at) => at >= 0n)
    expect(again).toEqual([...kept, -1n])
  })

  it("says which endpoint it could not have", async () => {
    const one = await start()
    await expect(start({ endpoint: one.endpoint })).rejects.toThrow(`--kv-events-config: ${one.endpoint}: `)
  })
})

test.each([
  ["{", "JSON, such as"],
  ['{"endpoint": 5}', "fields of a KV events config"],
  ['{"endpoint": "5557"}', 'an endpoint such as tcp://*:5557, in place of "5557"'],
  ['{"publisher": "kafka"}', "fields of a KV events config"],
  ['{"buffer_steps": 0}', "fields of a KV events config"],
])("a config of %s is refused", (text, says) => {
  const decoded = decodeKvEventsConfig(text)
  expect(Result.isFailure(decoded) && decoded.failure).toContain(says)
})

test("events can be turned off", () => {
  for (const text of ['{"enable_kv_cache_events": false}', '{"publisher": "null"}']) {
    expect(Result.getOrThrow(decodeKvEventsConfig(text))).toBeUndefined()
  }
})
