import { readFileSync } from "node:fs"
import { Random } from "@uniprefill/units/Random"
import type { ServeProcess } from "./ServeProcess.ts"
import { type Streamed, StreamClient } from "./StreamClient.ts"

export interface SoakOptions {
  readonly clients: number
  /** How long all of them go on, or how often each asks. */
  readonly lasts: { readonly seconds: number } | { readonly requests: number }
  /** Tokens of a short and of a long prompt. */
  readonly shortTokens: number
  readonly longTokens: number
  readonly maxTokens: number
  readonly seed: number
}

export interface SoakReport {
  readonly answers: number
  readonly aborted: number
  /** Answers that differ from what the same request got alone. */
  readonly wrong: ReadonlyArray<string>
  readonly failed: ReadonlyArray<string>
  readonly longestGapMs: number
  /** Growth of the server's memory over the last half, in MB a minute. */
  readonly memorySlope: number
}

/** Kinds of requests, each asked for again and again. */
const kinds = 12

/**
 * Streaming clients that come, go away in the middle, and come again, with short and long prompts. Every answer is compared
 * with what the same request got on an idle server; one that was given up, with that answer's beginning.
 */
export const soak = async (server: ServeProcess, options: SoakOptions): Promise<SoakReport> => {
  const { clients, lasts, shortTokens, longTokens, maxTokens, seed } = options
  const client = new StreamClient(server.url)
  const draw = new Random(seed, "bodies")
  const bodies = Array.from({ length: kinds }, (_, kind) => ({
    prompt: Array.from({ length: kind % 4 === 0 ? longTokens : shortTokens + kind }, () => draw.between(300, 3999)),
    max_tokens: Math.ceil((maxTokens * (1 + (kind % 3))) / 3),
    temperature: 1.5,
    seed: kind,
    ignore_eos: true,
    stream: true,
  }))
  const alone: Array<Streamed> = []
  for (const body of bodies) alone.push(await client.stream(body))

  const report = { answers: 0, aborted: 0, wrong: [] as Array<string>, failed: [] as Array<string>, longestGapMs: 0 }
  const began = performance.now()
  const isOver = (asked: number) =>
    "requests" in lasts ? asked === lasts.requests : performance.now() - began > lasts.seconds * 1000
  const memory: Array<readonly [minutes: number, megabytes: number]> = []
  const sampling = setInterval(() => {
    memory.push([performance.now() / 60_000, residentMegabytes(server.pid)])
  }, 500)
  const one = async (number: number) => {
    const own = new Random(seed, `client ${number}`)
    for (let asked = 0; !isOver(asked); asked++) {
      const kind = own.below(kinds)
      const leaves = own.unit() < 0.3
      const answer = await client
        .stream(bodies[kind]!, leaves ? own.between(1, maxTokens - 1) : undefined)
        .catch((error: Error) => error.message)
      if (typeof answer === "string" || (answer.error !== null && !answer.left)) {
        report.failed.push(typeof answer === "string" ? answer : answer.error!)
        continue
      }
      report.longestGapMs = Math.max(report.longestGapMs, answer.longestGapMs)
      const expected = alone[kind]!
      if (answer.left) report.aborted++
      else report.answers++
      const same = answer.left ? expected.text.startsWith(answer.text) : answer.text === expected.text
      if (!same) report.wrong.push(`kind ${kind}: ${answer.text.slice(0, 60)} ≠ ${expected.text.slice(0, 60)}`)
      if (own.unit() < 0.2) await new Promise((resolve) => setTimeout(resolve, own.between(1, 49)))
    }
  }
  await Promise.all(Array.from({ length: clients }, (_, i) => one(i)))
  clearInterval(sampling)
  client.close()
  return { ...report, memorySlope: slopeOf(memory.slice(Math.floor(memory.length / 2))) }
}

const residentMegabytes = (pid: number): number =>
  Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]) / 1024

/** Least squares. */
const slopeOf = (points: ReadonlyArray<readonly [number, number]>): number => {
  const mean = (of: (point: readonly [number, number]) => number) =>
    points.reduce((sum, point) => sum + of(point), 0) / points.length
  const [x, y] = [mean(([at]) => at), mean(([, value]) => value)]
  const variance = mean(([at]) => (at - x) ** 2)
  return variance === 0 ? 0 : mean(([at, value]) => (at - x) * (value - y)) / variance
}
