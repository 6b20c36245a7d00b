import { greedy } from "@uniprefill/executor/contract/Executor"
import type { ContentForSlot } from "./PlanBench.ts"
import {
  makeReferenceModel,
  referenceSpec,
  type ReferenceModel,
  uniformNumbers,
} from "@uniprefill/executor/reference/ReferenceModel"
import { ReferenceRunner } from "@uniprefill/executor/reference/ReferenceRunner"
import { type DropSchedule, denseSchedule, pToQ32 } from "@uniprefill/model/DropSchedule"
import type { LayerKind } from "@uniprefill/model/ModelSpec"
import type { StepResult } from "@uniprefill/scheduler/StepResult"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { logitsOf, PlanWriter, selectionsOf } from "./PlanWriter.ts"

const vocab = 64

const models = fc
  .record({
    kinds: fc.array(fc.constantFrom<LayerKind>("full", "full", "sliding", "state"), { minLength: 1, maxLength: 4 }),
    window: fc.integer({ min: 1, max: 150 }),
    windowBy: fc.constantFrom<DropSchedule["windowBy"]>("kept", "original"),
    drops: fc.array(fc.boolean(), { minLength: 5, maxLength: 5 }),
    p: fc.constantFrom(0.3, 0.6, 0.9),
    sink: fc.constantFrom(1, 64),
    lastQ: fc.constantFrom(17, 64),
    seed: fc.integer(),
  })
  .map(({ kinds, window, windowBy, drops, p, sink, lastQ, seed }) => {
    const layers: ReadonlyArray<LayerKind> = ["full", ...kinds]
    const dropLayers = layers.flatMap((kind, layer) =>
      kind === "full" && layer < layers.length - 1 && drops[layer] ? [{ layer, p }] : [],
    )
    const schedule: DropSchedule = { ...denseSchedule, dropLayers, windowBy, sink, lastQ }
    return {
      model: makeReferenceModel(referenceSpec({ layers, vocab, window, headDim: 4, hidden: 8 }), seed),
      schedule,
    }
  })

/** Prompts that end in a page, at the end of one, and before either. */
const lengths = fc.oneof(fc.integer({ min: 1, max: 330 }), fc.constantFrom(63, 64, 65, 128, 256))

const randomTokens = (length: number, seed: number): Int32Array => {
  const uniform = uniformNumbers(seed)
  return Int32Array.from({ length }, () => Math.floor(uniform() * vocab))
}

const contentOf = (slot: number, tokens: Int32Array, schedule: DropSchedule, drop: boolean, seed: number) =>
  ({
    slot,
    tokens,
    promptLength: tokens.length,
    pQ32: drop ? schedule.dropLayers.map(({ p }) => pToQ32(p)) : null,
    bitmaps: [],
    sampling: { ...greedy, temperature: 3, seed: BigInt(seed) },
    returnLogits: true,
    promptLogprobs: -1,
  }) satisfies ContentForSlot

interface Trace {
  readonly tokens: Array<number>
  readonly logits: Array<Int32Array>
  readonly bitmaps: Array<Uint32Array>
}

const record = (trace: Trace, slot: number, result: StepResult): void => {
  const { data, length } = result.tokens
  for (let i = 0; i < length; i += 3) if (data[i] === slot) trace.tokens.push(data[i + 1]!)
  const row = logitsOf(result).get(slot)
  if (row !== undefined) trace.logits.push(row)
  for (const [id, , , bitmap] of selectionsOf(result)) if (id === slot) trace.bitmaps.push(bitmap)
}

const empty = (): Trace => ({ tokens: [], logits: [], bitmaps: [] })

/** Serves one slot to its end in chunks of `chunk` rows, on a runner of its own. */
const alone = (
  model: ReferenceModel,
  schedule: DropSchedule,
  content: ContentForSlot,
  chunk: number,
  outputs: number,
) => {
  const writer = new PlanWriter(new ReferenceRunner({ model, schedule, slabs: 1000 }), schedule)
  const trace = empty()
  writer.open(content)
  prefill(writer, content.slot, chunk, (result) => record(trace, content.slot, result))
  while (trace.tokens.length < outputs) record(trace, content.slot, writer.step([]))
  return trace
}

const prefill = (writer: PlanWriter, slot: number, chunk: number, take: (result: StepResult) => void): void => {
  while (writer.requests.get(slot)!.phase === "prefill") {
    take(writer.step([{ slot, rows: Math.min(chunk, writer.remaining(slot)), runOn: chunk % 3 }]))
  }
}

describe("slots that share pages", () => {
  it("fork from one prefill, and each gives the bits of a slot of its own, whichever of them ends first", () => {
    const cases = fc.record({
      length: lengths,
      drop: fc.boolean(),
      forks: fc.integer({ min: 2, max: 4 }),
      outputs: fc.integer({ min: 3, max: 7 }),
      closed: fc.nat(3),
      chunk: fc.integer({ min: 30, max: 400 }),
      cacheDecoded: fc.boolean(),
      pageSize: fc.constantFrom(64, 128),
      seed: fc.integer(),
    })
    let differing = 0
    fc.assert(
      fc.property(models, cases, ({ model, schedule }, of) => {
        const runner = new ReferenceRunner({ model, schedule, slabs: 1000, pageSize: of.pageSize })
        const writer = new PlanWriter(runner, schedule, of.cacheDecoded)
        const prompt = randomTokens(of.length, of.seed)
        const contents = Array.from({ length: of.forks }, (_, k) =>
          contentOf(k, prompt, schedule, of.drop, of.seed + k),
        )
        for (const content of contents) writer.open(content, content.slot === 0 ? -1 : 0)
        const traces = contents.map(empty)
        const take = (result: StepResult) => {
          for (const [k, trace] of traces.entries()) record(trace, k, result)
          runner.checkIntegrity()
        }
        prefill(writer, 0, of.chunk, take)
        expect(traces.map(({ tokens }) => tokens.length)).toEqual(contents.map(() => 1))
        const closed = of.closed % of.forks
        while (writer.requests.size > 0) {
          take(writer.step([]))
          for (const slot of Array.from(writer.requests.keys())) {
            const { length } = traces[slot]!.tokens
            if (length === of.outputs || (slot === closed && length === 2)) writer.close(slot)
          }
        }
        writer.step([])
        expect(runner.checkIntegrity()).toEqual({ free: 1000, held: 0, cached: 0 })
        for (const { tokens } of traces.slice(1)) {
          if (tokens.some((token, i) => i < traces[0]!.tokens.length && token !== traces[0]!.tokens[i])) differing++
        }
        for (const [k, trace] of traces.entries()) {
          const own = alone(model, schedule, contents[k]!, of.chunk + 11, trace.tokens.length)
          // Selections are made once, for the slot that prefills.
          expect(trace).toEqual(k === 0 ? own : { ...own, bitmaps: [] })
        }
      }),
      { numRuns: 60 },
    )
    expect(differing).toBeGreaterThan(30)
  })

  it("begin with cached pages of prompt and generated tokens, windows and states, and give the bits of a cold start", () => {
    const cases = fc.record({
      length: lengths,
      drop: fc.boolean(),
      pages: fc.integer({ min: 1, max: 5 }),
      tail: fc.integer({ min: 0, max: 100 }),
      outputs: fc.integer({ min: 1, max: 4 }),
      chunk: fc.integer({ min: 30, max: 400 }),
      seed: fc.integer(),
    })
    const seen = { generated: 0, prompt: 0, leftOut: 0, states: 0, dropping: 0 }
    fc.assert(
      fc.property(models, cases, ({ model, schedule }, of) => {
        const drop = of.drop && schedule.dropLayers.length > 0
        const rows = of.pages * 64
        const generated = rows > of.length
        const runner = new ReferenceRunner({ model, schedule, slabs: 1000, maxRowsPerStep: 2000 })
        const hasState = runner.info.layout.stateSlotBytes > 0
        // A snapshot of a slot that drops has absorbed rows of later segments once it decodes.
        fc.pre(rows <= of.length + 100 && !(drop && hasState && generated))
        const writer = new PlanWriter(runner, schedule, true)
        const source = contentOf(0, randomTokens(of.length, of.seed), schedule, of.drop, of.seed)
        const sourceTrace = empty()
        writer.open(source)
        const take = (result: StepResult) => {
          record(sourceTrace, 0, result)
          runner.checkIntegrity()
        }
        if (generated) {
          prefill(writer, 0, of.chunk, take)
          while (of.length + writer.requests.get(0)!.decoded < rows) take(writer.step([]))
        } else {
          for (let done = 0; done < rows;) {
            const piece = Math.min(of.chunk, rows - done)
            take(writer.step([{ slot: 0, rows: piece, runOn: 0 }]))
            done += piece
          }
        }
        const prefix = writer.retain(0, of.pages)
        writer.step([])
        writer.close(0)

        const known = [...source.tokens, ...sourceTrace.tokens].slice(0, rows)
        const tail = randomTokens(Math.max(of.tail, drop ? 0 : 1), of.seed + 1)
        const content = contentOf(1, Int32Array.from([...known, ...tail]), schedule, of.drop, of.seed + 1)
        writer.open(content)
        writer.hit(1, prefix)
        const hit = empty()
        prefill(writer, 1, of.chunk + 5, (result) => {
          record(hit, 1, result)
          runner.checkIntegrity()
        })
        while (hit.tokens.length < of.outputs) record(hit, 1, writer.step([]))
        expect(hit).toEqual(alone(model, schedule, content, of.chunk, of.outputs))

        writer.close(1)
        writer.drop(prefix)
        writer.step([])
        expect(runner.checkIntegrity()).toEqual({ free: 1000, held: 0, cached: 0 })
        seen[generated ? "generated" : "prompt"]++
        if (drop) seen.dropping++
        if (hasState) seen.states++
        if (prefix.tables.some(({ freed }) => freed > 0)) seen.leftOut++
      }),
      { numRuns: 60, seed: 7 },
    )
    expect(Math.min(...Object.values(seen))).toBeGreaterThan(4)
  })
})
