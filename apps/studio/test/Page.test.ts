import { changeText, draftOf, firstDraft, missingFiles, scenarioOf, withValue } from "@uniprefill/studio/state/Draft"
import { firstDifference } from "@uniprefill/studio/state/Difference"
import { fileName, requestsCsv, stepsCsv } from "@uniprefill/studio/state/Exports"
import { decodeLink, encodeLink } from "@uniprefill/studio/state/Link"
import { kneeOf, type RatePoint, scaledRate } from "@uniprefill/studio/report/Rates"
import type { Scenario } from "@uniprefill/simulator/scenario/Scenario"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { simulatedResult, simulatedRun } from "./Results.ts"

const base: Scenario = {
  seed: 4,
  workload: { requests: 50, ratePerSecond: 4, promptTokens: "lognormal:9000,1,60000", outputTokens: "uniform:20-200" },
  engine: { slots: 6 },
}

describe("a draft", () => {
  it("becomes a scenario and back", () => {
    const scenario = { name: "x", engine: { slots: 4 }, slo: { ttftMs: 1 }, changes: [{ atMicros: 5, policy: "fcfs" }] }
    expect(scenarioOf(draftOf(scenario))).toEqual(scenario)
    expect(draftOf({ ...scenario, format: "uniprefill-scenario", version: 1, sweep: { over: {} } })).toEqual(
      draftOf(scenario),
    )
  })

  it("forgets a field that is set back to its default", () => {
    const draft = withValue(firstDraft, "engine.slots", 4)
    expect(scenarioOf(draft)).toMatchObject({ engine: { slots: 4 } })
    expect(withValue(draft, "engine.slots", undefined)).toEqual(firstDraft)
  })

  it("knows the files that it names and does not have", () => {
    const draft = draftOf({ keep: "a.keep.json", model: "llama-3.1-8b", workload: { trace: "t.jsonl.gz" } })
    expect(missingFiles(draft, { "t.jsonl.gz": new Blob([]) })).toEqual(["a.keep.json"])
    expect(missingFiles(firstDraft, {})).toEqual([])
  })

  it("says what a change does", () => {
    expect(changeText({ atMicros: 1, policy: "fcfs", slow: { factor: 3, seconds: 2 } })).toBe(
      "policy fcfs, all devices 3× slower for 2 s",
    )
    expect(changeText({ atMicros: 1, keep: [0.5, 0.2] })).toBe("keep 0.5, 0.2")
  })
})

describe("a link", () => {
  it("holds any scenario whole", async () => {
    await fc.assert(
      fc.asyncProperty(fc.jsonValue(), fc.option(fc.nat()), async (scenario, step) => {
        // JSON knows no −0.
        const made = JSON.parse(JSON.stringify({ scenario, step })) as { scenario: unknown; step: number | null }
        expect(await decodeLink(`#${await encodeLink(made)}`)).toEqual(made)
      }),
      { numRuns: 40 },
    )
  })

  it("of another version, or damaged, is refused and says so; no link is none", async () => {
    const whole = await encodeLink({ scenario: base, step: 3 })
    expect(await decodeLink("")).toBeNull()
    await expect(decodeLink("#v2.abc")).rejects.toThrow(/made by another version.*version 2.*reads version 1/)
    await expect(decodeLink(`#${whole.slice(0, -9)}`)).rejects.toThrow("the link is damaged")
    await expect(decodeLink("#section")).rejects.toThrow("no link of this page")
  })
})

describe("two runs", () => {
  it("part at the first step that differs, or are the same", async () => {
    const [run, { timeline }] = await simulatedRun(base)
    expect(firstDifference(timeline, (await simulatedResult(base)).timeline)).toBeNull()
    // Steps that only close slots take no time, whatever slows them down.
    const step = timeline.steps.micros.findIndex((micros, at) => at >= timeline.steps.count / 2 && micros > 0)
    const { nowMicros } = run.at(step, -1).state
    const slower = { ...base, changes: [{ atMicros: nowMicros, slow: { factor: 2, seconds: 1 } }] }
    const other = await simulatedResult(slower)
    expect(firstDifference(timeline, other.timeline)).toEqual({ step, micros: timeline.steps.start[step] })
    const policy = await simulatedResult({ ...base, changes: [{ atMicros: nowMicros, policy: "shortest-prefill" }] })
    expect(firstDifference(timeline, policy.timeline)!.step).toBeGreaterThanOrEqual(step)
  })
})

describe("exports", () => {
  it("have a line for each request and each step, under a line of names", async () => {
    const result = await simulatedResult(base)
    const [head, ...lines] = requestsCsv(result).trimEnd().split("\n")
    expect(lines).toHaveLength(50)
    const names = head!.split(",")
    expect(lines.every((line) => line.split(",").length === names.length)).toBe(true)
    const tokens = lines.map((line) => Number(line.split(",")[names.indexOf("output_tokens")]))
    expect(tokens.reduce((sum, count) => sum + count, 0)).toBe(result.summary!.outputTokens)
    const steps = stepsCsv(result).trimEnd().split("\n")
    expect(steps).toHaveLength(result.timeline.steps.count + 1)
    expect(steps[5]!.split(",")).toHaveLength(steps[0]!.split(",").length)
  })

  it("have names that any system takes", () => {
    expect(fileName("A chat trace on one H200 B", "json")).toBe("a-chat-trace-on-one-h200-b.json")
    expect(fileName("…", "csv")).toBe("run.csv")
  })
})

describe("the knee", () => {
  const point = (factor: number, attainment: number): RatePoint => ({
    factor,
    attainment,
    offered: factor,
    served: 1,
    goodput: 1,
  })

  it("lies between the last rate below which every rate holds, and the next", () => {
    const points = [point(2, 0.5), point(0.5, 0.99), point(1, 0.91), point(3, 0.95)]
    expect(kneeOf(points, 0.9)).toEqual({ last: points[2], first: points[0] })
    expect(kneeOf(points, 0.995).last).toBeNull()
    expect(kneeOf(points, 0.4).first).toBeNull()
  })

  it("is looked for by the rate alone", () => {
    expect(scaledRate({ name: "x", workload: { trace: "t", rate: 0.5 } }, 3)).toEqual({
      name: "x",
      workload: { trace: "t", rate: 1.5 },
    })
    expect(scaledRate({}, 2)).toEqual({ workload: { rate: 2 } })
  })
})
