import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { PrefixAwarePicker } from "./PrefixAwarePicker.ts"
import { ServeProcess } from "./ServeProcess.ts"
import { stepsOf } from "./StepsOf.ts"

const folder = mkdtempSync(join(tmpdir(), "uniprefill-gateway-"))
afterAll(() => rmSync(folder, { recursive: true }))
const costs = join(folder, "steps-of-10-ms.json")
writeFileSync(costs, JSON.stringify(stepsOf(10)))

const start = async (pod: string) => {
  const config = { enable_kv_cache_events: true, endpoint: "tcp://127.0.0.1:*", topic: `kv@${pod}@needle` }
  const options = ["--executor", "sim", "--cost-model", costs, "--kv-memory", "64MiB", "--log-format", "json"]
  return ServeProcess.start(...options, "--kv-events-config", JSON.stringify(config))
}

const ask = async (url: string, prompt: string, headers: Record<string, string> = {}) => {
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify({ prompt, max_tokens: 4, temperature: 0 }),
  })
  return { status: response.status, json: (await response.json()) as any }
}

/** Gives a server a request of many tokens, 40 s of steps, and takes it back at the end of the scope. */
const keepBusy = async (url: string): Promise<AsyncDisposable> => {
  const leaving = new AbortController()
  const running = async () => {
    const metrics = await (await fetch(`${url}/metrics`)).text()
    return Number(/^vllm:num_requests_running\{[^}]*\} (.*)$/m.exec(metrics)![1])
  }
  const request = fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt: "busy", max_tokens: 4_000, ignore_eos: true, stream: true }),
    signal: leaving.signal,
  })
  const gone = request.then((response) => response.text()).catch(() => {})
  await expect.poll(running).toBe(1)
  return {
    [Symbol.asyncDispose]: async () => {
      leaving.abort()
      await gone
      await expect.poll(running).toBe(0)
    },
  }
}

describe("two servers behind a picker that knows their prefixes", () => {
  it("requests go to where their beginning is, others to where less is going on", async () => {
    await using one = await start("pod-1")
    await using two = await start("pod-2")
    const picker = new PrefixAwarePicker()
    await picker.add(one.url, one.kvEventsEndpoint, "kv@pod-1@")
    await picker.add(two.url, two.kvEventsEndpoint, "kv@pod-2@")

    const documents = Array.from(
      { length: 6 },
      (_, d) => `Document ${d}. ${`The quick brown fox ${d} jumps. `.repeat(120)}`,
    )
    const homes = new Map<number, string>()
    // Nobody has any of them yet, so the load decides.
    for (const [d, text] of documents.entries()) {
      const [busy, idle] = d % 2 === 0 ? [one, two] : [two, one]
      await using _ = await keepBusy(busy.url)
      const { url } = await picker.pick(text)
      homes.set(d, url)
      expect(url).toBe(idle.url)
      expect((await ask(url, text)).status).toBe(200)
    }
    for (const { url } of [one, two]) await picker.catchUp(url)

    let known = 0
    let hits = 0
    for (const [d, text] of documents.entries()) {
      const question = `${text}\nQuestion: what about ${d}?\nAnswer:`
      const { url, cached } = await picker.pick(question)
      expect(url).toBe(homes.get(d))
      expect(cached).toBeGreaterThan(500)
      const { json } = await ask(url, question)
      const found = json.usage.prompt_tokens_details.cached_tokens
      known += cached
      hits += found
      expect(found).toBeGreaterThan(0)
      // The other server would have had to compute it.
      const other = url === one.url ? two.url : one.url
      expect((await ask(other, `${question} ${d}`)).json.usage.prompt_tokens_details.cached_tokens).toBe(0)
    }
    expect(hits).toBe(known)
    expect(picker.gaps).toBe(0)

    // What is pushed out is forgotten by the picker too.
    for (let i = 0; i < 60; i++) await ask(one.url, `Filler ${i}. ${`word ${i} `.repeat(1500)}`)
    await picker.catchUp(one.url)
    const mine = [...homes].filter(([, url]) => url === one.url).map(([d]) => d)
    for (const d of mine) {
      const { url, cached } = await picker.pick(documents[d]!)
      const { json } = await ask(url, documents[d]!)
      expect(json.usage.prompt_tokens_details.cached_tokens).toBe(cached)
    }
    picker.close()
  })

  it("read what a gateway reads: health, cache config, and its own headers", async () => {
    await using server = await start("pod-3")
    expect((await fetch(`${server.url}/health`)).status).toBe(200)
    const metrics = await (await fetch(`${server.url}/metrics`)).text()
    expect(metrics).toMatch(/^vllm:cache_config_info\{.*block_size="128".*num_gpu_blocks="\d+".*\} 1$/m)
    const { json } = await ask(server.url, "hello", { "x-request-id": "gateway-7" })
    expect(json.id).toBe("cmpl-gateway-7")
    server.signal("SIGTERM")
    expect(await server.ended).toBe(0)
  })
})
