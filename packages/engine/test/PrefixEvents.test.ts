import { assert, describe, it } from "@effect/vitest"
import { Engine } from "@uniprefill/engine/Engine"
import type { PrefixEvent } from "@uniprefill/engine/PrefixEvents"
import { ExecutorError } from "@uniprefill/executor/contract/Executor"
import { Effect } from "effect"
import { collect, engineLayer, request, settle } from "./EngineHarness.ts"
import { ScriptedExecutor } from "./ScriptedExecutor.ts"

const pageSize = 64
const promptOf = (length: number, first: number) => Array.from({ length }, (_, i) => (i === 0 ? first : 10 + (i % 50)))

/** What a gateway knows from the events: the key of every prefix that is whole pages, written out. */
class Index {
  readonly pages = new Map<string, string>()

  readonly take = (event: PrefixEvent): void => {
    if (event._tag === "Cleared") this.pages.clear()
    else if (event._tag === "Removed") assert.isTrue(this.pages.delete(event.key), "removed what was stored")
    else {
      const before = event.parent === null ? "" : this.pages.get(event.parent)
      assert.isDefined(before, "a page follows one that is there")
      assert.isFalse(this.pages.has(event.key), "stored once")
      this.pages.set(event.key, `${before}${event.tokens.join(",")};`)
    }
  }

  /** Tokens of a prompt that are there. */
  cached(prompt: ReadonlyArray<number>): number {
    const known = new Set(this.pages.values())
    let prefix = ""
    for (let from = 0; from + pageSize <= prompt.length; from += pageSize) {
      prefix += `${prompt.slice(from, from + pageSize).join(",")};`
      if (!known.has(prefix)) return from
    }
    return Math.floor(prompt.length / pageSize) * pageSize
  }
}

describe("prefix events", () => {
  it.effect("say what the next request will find, through storing, evicting and failing", () => {
    const failing = { next: false }
    const failure = new ExecutorError({ reason: "LaunchFailed", operation: "step", detail: "as the test asked" })
    const executor = new ScriptedExecutor({
      outputs: () => Array.from({ length: 90 }, (_, i) => 20 + i),
      failStep: () => (failing.next ? failure : undefined),
    })
    const index = new Index()
    const kinds = new Set<string>()
    const prefixEvents = (event: PrefixEvent) => {
      kinds.add(event._tag)
      index.take(event)
    }
    return Effect.gen(function* () {
      const engine = yield* Engine
      let hits = 0
      let exact = 0
      for (let round = 0; round < 120; round++) {
        // Shared beginnings, of prompts that drop and of others, and now and then one that nobody knows.
        const prompt = [...promptOf(1000 + 64 * (round % 5), 3 + (round % 4)), ...promptOf(1 + (round % 90), round % 7)]
        const drop = round % 3 > 0
        const salt = round % 11 === 0 ? { cacheSalt: "a" } : {}
        const expected = index.cached(prompt)
        const { finished } = yield* collect(engine, request(prompt, { drop, maxTokens: 1 + (round % 70), ...salt }))
        if (drop && round % 11 !== 0 && finished.cachedTokens > 0) {
          hits++
          if (finished.cachedTokens === expected) exact++
          assert.isAtMost(finished.cachedTokens, expected)
        }
        if (round % 40 === 39) {
          failing.next = true
          yield* Effect.flip(collect(engine, request([7, round])))
          failing.next = false
        }
        yield* settle
      }
      assert.isAbove(hits, 20)
      assert.isAbove(exact, 20)
      assert.deepStrictEqual([...kinds].toSorted(), ["Cleared", "Removed", "Stored"])
    }).pipe(Effect.provide(engineLayer(executor, { prefixEvents })))
  })
})
