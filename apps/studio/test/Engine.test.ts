import type { Reply } from "@uniprefill/studio/protocol/Protocol"
import type { RunModel } from "@uniprefill/studio/timeline/RunModel"
import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { gzipSync } from "node:zlib"
import { scenarioFields } from "@uniprefill/simulator/scenario/ScenarioFields"
import { open } from "@uniprefill/studio/engine/Documents"
import { fieldSpecs } from "@uniprefill/studio/engine/Fields"
import { textOf } from "@uniprefill/studio/engine/Inputs"
import { paced } from "@uniprefill/studio/engine/LookBack"
import { check } from "@uniprefill/studio/engine/Scenarios"
import { transferables } from "@uniprefill/studio/engine/Transferables"
import { valueOf } from "@uniprefill/studio/scenario/FieldValue"
import { describe, expect, it, vi } from "vitest"
import { simulatedRun } from "./Results.ts"

const file = (path: string) => new Blob([readFileSync(fileURLToPath(new URL(path, import.meta.url)))])

const trace = [
  { timestamp: 0, input_length: 600, output_length: 5, hash_ids: [1, 2] },
  { timestamp: 3000, input_length: 100, output_length: 7, hash_ids: [3] },
].map((row) => JSON.stringify(row))

describe("the form", () => {
  it("has every field of a scenario, with a control that its schema asks for", () => {
    const specs = fieldSpecs()
    expect(specs.map(({ path }) => path)).toEqual(scenarioFields.map(({ path }) => path))
    const of = (path: string) => specs.find((spec) => spec.path === path)!
    expect(of("tensorParallel").control).toEqual({ kind: "number", integer: true, minimum: 1, maximum: null })
    expect(of("engine.memoryUtilization").control).toEqual({ kind: "number", integer: false, minimum: 0, maximum: 1 })
    expect(of("router").control).toEqual({ kind: "choice", values: ["round-robin", "least-loaded", "prefix-aware"] })
    expect(of("engine.stepsInFlight").control).toEqual({ kind: "choice", values: [1, 2] })
    expect(of("engine.prefixCaching").control).toEqual({ kind: "flag" })
    expect(of("policy").control).toEqual({ kind: "text", known: expect.arrayContaining(["fcfs", "token-budget"]) })
    expect(of("model").control).toEqual({ kind: "text", known: expect.arrayContaining(["llama-3.1-70b"]) })
    expect(of("engine.stepBudgetMs")).toMatchObject({ label: "Step budget", unit: "ms", section: "engine" })
    expect(of("slo.ttftMs")).toMatchObject({ label: "TTFT", unit: "ms" })
    expect(of("host.tokenizeMicrosPerToken")).toMatchObject({ label: "Tokenize", unit: "µs a token" })
    expect(specs.every(({ description }) => description.length > 5)).toBe(true)
  })
})

describe("a scenario that cannot run", () => {
  it.each([
    [{ replicas: 0, engine: { slots: -1 } }, ["replicas", "engine.slots"]],
    [{ engine: { pageSize: 100 } }, ["engine.pageSize"]],
    [{ engine: { slots: 512, maxRowsPerStep: 300 } }, ["engine.maxRowsPerStep"]],
    [{ policy: "slowest" }, ["policy"]],
    [{ device: "abacus" }, ["device"]],
    [{ workload: { promptTokens: "many" } }, ["workload.promptTokens"]],
    [{ keep: [0.2, 0.6] }, ["keep"]],
    [{ changes: [{ atMicros: 1, abort: [9_999_999] }] }, ["changes.0.abort"]],
    [{ model: "llama-3.1-70b" }, [""]],
    [{ workload: { trace: "lost.jsonl" } }, [""]],
  ])("%j says so at its field", async (scenario, paths) => {
    const { faults, preview } = await check(scenario, {})
    expect(faults.map(({ path }) => path)).toEqual(paths)
    expect(faults.every(({ detail }) => detail.length > 10)).toBe(true)
    expect(preview).toBeNull()
  })

  it("that can run says what it would run", async () => {
    const { faults, preview } = await check({ workload: { trace: "mooncake-conversation-slice", rate: 0.5 } }, {})
    expect(faults).toEqual([])
    expect(preview).toMatchObject({ requests: 600, slabs: 110_739 })
    expect(preview!.arrivals.reduce((sum, count) => sum + count, 0)).toBe(600)
    expect(preview!.lengths.reduce((sum, { count }) => sum + count, 0)).toBe(600)
    expect(preview!.about.join("\n")).toContain("drops at layers")
  })
})

describe("a dropped file", () => {
  it.each([
    [
      "a.jsonl",
      trace.join("\n"),
      { kind: "input", fields: { "workload.trace": "a.jsonl", "workload.traceFormat": "auto" } },
    ],
    [
      "a.csv",
      "arrival_ms,prompt_tokens,output_tokens\n0,100,5\n",
      { kind: "input", fields: { "workload.trace": "a.csv" } },
    ],
    [
      "a.scenario.yaml",
      "name: mine\nengine: { slots: 4 }",
      { kind: "scenario", scenario: { name: "mine", engine: { slots: 4 } } },
    ],
    ["a.json", '{"policy":"fcfs"}', { kind: "scenario", scenario: { policy: "fcfs" } }],
    ["k.keep.json", '{"format":"uniprefill-keep","version":1}', { kind: "input", fields: { keep: "k.keep.json" } }],
  ])("%s is what it says", async (name, text, expected) => {
    expect(await open(name, new Blob([text]))).toMatchObject(expected)
  })

  it("that is packed is unpacked", async () => {
    expect(await open("a.jsonl.gz", new Blob([gzipSync(trace.join("\n"))]))).toMatchObject({ kind: "input" })
    expect(await textOf("a.jsonl.gz", new Blob(["not packed"]))).toBe("not packed")
    const cut = new Blob([gzipSync(trace.join("\n")).subarray(0, 30)])
    await expect(textOf("a.jsonl.gz", cut)).rejects.toThrow("a.jsonl.gz: cannot be read")
  })

  it("of a server is a recording", async () => {
    const opened = await open("cpu.recording.jsonl.gz", file("../../../test/golden/cpu.recording.jsonl.gz"))
    expect(opened).toMatchObject({ kind: "recording" })
  })

  it.each([
    [
      "bad.jsonl",
      `${trace[0]}\n{"timestamp": 1, "input_length": -4, "output_length": 2, "hash_ids": []}`,
      "bad.jsonl:2: input_length is -4",
    ],
    ["bad.jsonl", `${trace[0]}\nnot json`, "bad.jsonl:2: not a JSON object"],
    ["late.jsonl", trace.toReversed().join("\n"), "late.jsonl:2: timestamp 0 is before 3000"],
    ["bad.csv", "arrival_ms,prompt_tokens,output_tokens\n0,100\n", "bad.csv:2: 2 columns"],
    ["what.csv", "a,b\n1,2\n", "what.csv:1: not a known trace"],
    ["bad.yaml", "a: [1, 2", "bad.yaml: "],
    ["bad.json", '{"slots": }', "bad.json: "],
    ["bad.json", '{"engine":{"slots":"many"}}', "engine.slots: bad.json: "],
    ["empty.jsonl", "  \n", "empty.jsonl: the file is empty"],
    ["old.json", '{"format":"uniprefill-studio","version":7}', "version 7 of a studio file; this page reads version 1"],
    ["cut.json", '{"format":"uniprefill-studio","version":1,"scenario":{}}', "cut.json: not a whole studio file"],
    ["cut.recording.jsonl", '{"format":"uniprefill-recording","version":1}', "cut.recording.jsonl line 1"],
  ])("%s is refused with its line or field", async (name, text, message) => {
    await expect(open(name, new Blob([text]))).rejects.toThrow(message)
  })
})

describe("a form's text", () => {
  it.each([
    ["engine.slots", "64", 64],
    ["engine.slots", "many", "many"],
    ["engine.slots", " ", undefined],
    ["keep", "0.5", [0.5]],
    ["keep", "0.8, 0.6", [0.8, 0.6]],
    ["keep", "paper", "paper"],
    ["workload.promptTokens", "8192", 8192],
    ["workload.promptTokens", "uniform:1-5", "uniform:1-5"],
    ["workload.maxTokens", "300", 300],
    ["name", "2025", "2025"],
  ])("%s %j is %j in the scenario", (path, text, value) => {
    expect(
      valueOf(
        text,
        fieldSpecs().find((spec) => spec.path === path)!,
      ),
    ).toEqual(value)
  })
})

describe("a run in a worker", () => {
  it("that is stopped is answered with what is known, marked as partial", async () => {
    const [, whole] = await simulatedRun({ workload: { requests: 300, ratePerSecond: 2 } })
    const { SimulatedRun } = await import("@uniprefill/studio/engine/SimulatedRun")
    const { experimentOf } = await import("@uniprefill/studio/engine/Scenarios")
    const run = new SimulatedRun(await experimentOf({ workload: { requests: 300, ratePerSecond: 2 } }, {}))
    let looks = 0
    const result = await run.run(
      () => ++looks > 3,
      () => {},
    )
    expect(result.complete).toBe(false)
    expect(result.ended).toBe("stopped")
    const { count } = result.timeline.steps
    expect(count).toBeGreaterThan(0)
    expect(count).toBeLessThan(whole.timeline.steps.count)
    // What was done of it can be looked at like any other run.
    expect(run.at(count - 1, -1).state.startMicros).toBe(whole.timeline.steps.start[count - 1])
  })

  it("that is stopped while its scenario is still read makes no step", async () => {
    const { promise, resolve } = Promise.withResolvers<RunModel>()
    let send: (event: { readonly data: unknown }) => void = () => {}
    vi.stubGlobal("self", {
      addEventListener: (_: string, listener: typeof send) => (send = listener),
      postMessage: (reply: Reply) => reply.tag === "done" && resolve(reply.value as RunModel),
    })
    await import("@uniprefill/studio/engine/worker")
    send({
      data: { id: 1, command: { do: "run", scenario: { workload: { requests: 300, ratePerSecond: 2 } }, files: {} } },
    })
    send({ data: { stop: true } })
    const { result } = await promise
    expect(result).toMatchObject({ complete: false, ended: "stopped" })
    expect(result.timeline.steps.count).toBe(0)
  })

  it("gives its arrays away and no other", () => {
    const shared = new Float64Array(4)
    const value = { a: shared, list: [new Uint8Array(2)], again: { shared }, text: "x", nothing: null }
    expect(transferables(value)).toEqual([shared.buffer, value.list[0]!.buffer])
  })

  it("takes a checkpoint after so much computing, however few steps that were, and reports as it goes", async () => {
    const clock = vi.spyOn(performance, "now")
    let now = 0
    clock.mockImplementation(() => now)
    // A step takes 10 µs, and a thousand times that in the middle of the run.
    const stepMs = (step: number) => (step > 20_000 && step < 20_100 ? 10 : 0.01)
    let at = 0
    let sinceMs = 0
    let spread = 1
    const between: Array<number> = []
    const reported: Array<number> = []
    const { tookMs, checkpointsMs } = await paced(
      {
        advance: (instants) => {
          for (let i = 0; i < instants; i++) {
            sinceMs += stepMs(at)
            now += stepMs(at++)
          }
        },
        isDone: () => at > 60_000,
        spread: () => spread,
        checkpoint: () => {
          between.push(sinceMs)
          sinceMs = 0
          now += 2
          if (at > 40_000) spread = 4
        },
        progress: () => ({ done: at, total: 0, steps: at, nowMicros: 0, waiting: 0, running: 0 }),
      },
      () => false,
      ({ done }) => reported.push(done),
    )
    clock.mockRestore()
    // Every slice of expensive steps is followed by one; elsewhere one follows after two slices, and after more as they are spread.
    expect(between.length).toBeGreaterThan(60)
    expect(between.filter((ms) => ms < 5)).toEqual([])
    expect(Math.max(...between.slice(0, 20))).toBeLessThan(8.1)
    expect(between.at(-1)).toBeGreaterThan(19)
    expect(checkpointsMs).toBeCloseTo(2 * between.length)
    expect(tookMs).toBe(now)
    expect(reported.length).toBeGreaterThan(5)
    expect(reported.toSorted((a, b) => a - b)).toEqual(reported)
  })
})
