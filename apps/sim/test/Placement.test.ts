import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { driverConfig } from "@uniprefill/simulator/Setup"
import { buildExperiment } from "@uniprefill/simulator/scenario/Build"
import { type Scenario, withDefaults } from "@uniprefill/simulator/scenario/Scenario"
import { afterAll, describe, expect, it } from "vitest"
import { simHere, type Outcome } from "./SimProcess.ts"

const folder = mkdtempSync(join(tmpdir(), "uniprefill-placement-"))
afterAll(() => rmSync(folder, { recursive: true }))

const sim = (...args: ReadonlyArray<string>): Promise<Outcome> => simHere(folder, args)

interface CapacityJson {
  readonly tokens: number
  readonly atOnce: number
  readonly carryBytes: number
  readonly decodeStepMicros: number
}

interface LayoutJson {
  readonly tensorParallel: number
  readonly replicas: number
  readonly slabs: number | null
  readonly misfit: { readonly reason: string; readonly detail: string } | null
  readonly predicted: { readonly timeToFirstTokenMicros: number; readonly timePerTokenMicros: number } | null
  readonly dense: CapacityJson | null
  readonly dropping: CapacityJson | null
  readonly denseTtftMicros: number | null
  readonly shards: ReadonlyArray<unknown> | null
  readonly workload: { readonly completed: number; readonly goodput: number } | null
}

/** What `placement` writes as JSON, beside what it prints. */
const placed = async (...args: ReadonlyArray<string>) => {
  const outcome = await sim("placement", ...args, "--json", "placement.json")
  expect(outcome.err).toBe("")
  const json = JSON.parse(readFileSync(join(folder, "placement.json"), "utf8")) as {
    readonly chosen: { readonly tensorParallel: number; readonly replicas: number } | null
    readonly layouts: ReadonlyArray<LayoutJson>
  }
  return { ...outcome, ...json }
}

/** The value of a row of the table, column by column. */
const row = (out: string, label: string): ReadonlyArray<string> | undefined =>
  out
    .split("\n")
    .find((line) => line.startsWith(`${label} `))
    ?.slice(label.length)
    .trim()
    .split(/ {2,}/)

const simulatorSlabs = (scenario: Scenario): number => {
  const { setup } = buildExperiment(withDefaults(scenario), () => "")
  return driverConfig(setup).slabs
}

describe("placement", () => {
  it("says of every layout what it holds and how soon it answers, or why it does not fit", async () => {
    const { code, out, chosen, layouts } = await placed("--model", "llama-3.1-70b", "--gpus", "8")
    expect(code).toBe(0)
    expect(row(out, "tensor parallel × replicas")).toEqual(["1 × 8", "2 × 4", "4 × 2", "8 × 1"])
    expect(row(out, "works")).toEqual(["no", "yes", "yes", "yes"])
    expect(row(out, "weights, GB a device")).toEqual(["–", "72.66", "38.43", "21.32"])
    expect(out).toMatch(/1 × 8 does not fit: weights 141\.\d\d GB, .* make .* a device; 134\.\d\d GB can be used\./)
    expect(out).toContain("2 × 4 has the smallest tensor-parallel degree that works")
    expect(chosen).toEqual({ tensorParallel: 2, replicas: 4 })
    expect(layouts.map(({ shards }) => shards?.length)).toEqual([undefined, 2, 4, 8])
    // The simulator's own number of slabs, on which every layout's is based.
    for (const { tensorParallel, replicas, slabs } of layouts.slice(1)) {
      expect(simulatorSlabs({ model: "llama-3.1-70b", tensorParallel, replicas })).toBe(slabs)
    }
  })

  it("predicts what a run of one prompt comes to", async () => {
    const { layouts } = await placed("--gpus", "2", "--length", "60000")
    const one = ["--arrivals", "closed", "--clients", "1", "--requests", "1", "--output-tokens", "9"]
    for (const { tensorParallel, predicted, dense, dropping, denseTtftMicros } of layouts) {
      const shape = [...one, "--prompt-tokens", "60000", "--tensor-parallel", String(tensorParallel)]
      await sim("run", ...shape, "--json", "run.json")
      const run = JSON.parse(readFileSync(join(folder, "run.json"), "utf8")) as Record<string, number>
      expect(predicted!.timeToFirstTokenMicros / 1000).toBeCloseTo(run["mean_ttft_ms"]!, 2)
      expect(predicted!.timePerTokenMicros / 1000).toBeCloseTo(run["mean_tpot_ms"]!, 2)
      expect(denseTtftMicros).toBeGreaterThan(1.2 * predicted!.timeToFirstTokenMicros)
      expect(dropping!.tokens).toBeGreaterThan(1.2 * dense!.tokens)
      expect([dense!.carryBytes, dropping!.carryBytes > 0]).toEqual([0, true])
    }
    const [single, split] = layouts
    expect(split!.predicted!.timeToFirstTokenMicros).toBeLessThan(single!.predicted!.timeToFirstTokenMicros)
  })

  it("serves the scenario's workload on each, and names the one that serves it best", async () => {
    writeFileSync(
      join(folder, "a.scenario.yaml"),
      "schedule: 'off'\nreplicas: 7\nworkload: { requests: 30, promptTokens: 2000, outputTokens: 20 }\n",
    )
    const { code, out, layouts } = await placed("a.scenario.yaml", "--gpus", "2")
    expect(code).toBe(0)
    expect(layouts.map(({ workload }) => workload?.completed)).toEqual([30, 30])
    const best = layouts.reduce((a, b) => (b.workload!.goodput > a.workload!.goodput ? b : a))
    expect(out).toContain(`On the workload the goodput of ${best.tensorParallel} × ${best.replicas} is highest`)
    expect(row(out, "… SLO met, % of all offered")).toHaveLength(2)
    // Nothing drops: no columns for it.
    expect(out).not.toContain("dropping")
    expect(layouts.map(({ dropping }) => dropping)).toEqual([null, null])
  })

  it("holds layouts to targets", async () => {
    const target = ["--gpus", "2", "--length", "120000", "--slo-ttft-ms"]
    const { code, out, chosen, layouts } = await placed(...target, "4000")
    expect(code).toBe(0)
    expect(layouts.map(({ misfit }) => misfit?.reason ?? "works")).toEqual(["Target", "works"])
    expect(out).toMatch(
      /1 × 2 misses its target: time to first token is predicted as [\d.]+ ms, at most 4000 ms is wanted/,
    )
    expect(chosen).toEqual({ tensorParallel: 2, replicas: 1 })
  })

  it("ends with 1 where nothing works, and says so of every layout", async () => {
    const { code, out, chosen, layouts } = await placed("--model", "llama-3.1-70b", "--device", "l40s", "--gpus", "2")
    expect(code).toBe(1)
    expect(chosen).toBeNull()
    expect(layouts.map(({ misfit }) => misfit?.reason)).toEqual(["Weights", "Weights"])
    expect(out).toContain("No layout works.")
    const short = await placed("--device", "rtx-4090", "--gpus", "1", "--max-model-len", "32768", "--length", "32000")
    expect(short.layouts[0]!.misfit).toMatchObject({
      reason: "Request",
      detail: expect.stringMatching(/^a request of 32768 tokens may need \d+ slabs of 1\.05 MB; .* hold \d+$/),
    })
  })

  it.each([
    [["--gpus", "0"], /--gpus 0: at least 1/],
    [["--gpus-per-host", "0"], /--gpus-per-host 0: at least 1/],
    [["--length", "0"], /--length 0: from 1 to 131063/],
    [["--length", "131064"], /--length 131064: from 1 to 131063, so that 9 output tokens fit in 131072 too/],
    [["--memory-utilization", "0"], /memoryUtilization must be above 0 and at most 1, got 0/],
    [["--model", "gpt-5"], /model: there is no "gpt-5"/],
  ])("%j is wrong usage", async (args, message) => {
    const { code, err, out } = await sim("placement", ...args)
    expect([code, out]).toEqual([2, ""])
    expect(err).toMatch(message)
  })
})
