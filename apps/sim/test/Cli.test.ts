import type { ChildProcess } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { gunzipSync, gzipSync } from "node:zlib"
import { traceEventFault } from "@uniprefill/simulator/output/TraceEventCheck"
import { afterAll, describe, expect, it } from "vitest"
import { runSim, simHere, type Outcome } from "./SimProcess.ts"

const folder = mkdtempSync(join(tmpdir(), "uniprefill-sim-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const simProcess = (args: ReadonlyArray<string>, during?: (child: ChildProcess) => void): Promise<Outcome> =>
  runSim(folder, args, during)

const sim = (args: ReadonlyArray<string>): Promise<Outcome> => simHere(folder, args)

const file = (name: string, text: string): string => {
  const path = join(folder, name)
  writeFileSync(path, text)
  return path
}

const small = ["--requests", "60", "--rate-per-second", "2", "--prompt-tokens", "uniform:500-20000"]

describe("run", () => {
  it("prints vllm bench's table and writes what is asked for", async () => {
    const { code, out, err } = await sim([
      "run",
      ...small,
      "--json",
      "r.json",
      "--html",
      "r.html",
      "--perfetto",
      "r.trace",
      "--why",
      "r.txt",
    ])
    expect([code, err]).toEqual([0, ""])
    expect(out).toContain("Serving Benchmark Result")
    expect(out).toContain("kept rows  assumed")
    const json = JSON.parse(readFileSync(join(folder, "r.json"), "utf8")) as Record<string, unknown>
    expect(json).toMatchObject({ format: "uniprefill-simulation", complete: true, completed: 60 })
    expect(out).toContain(String(json["plan_hash"]))
    expect(traceEventFault(JSON.parse(readFileSync(join(folder, "r.trace"), "utf8")))).toBeNull()
    expect(readFileSync(join(folder, "r.html"), "utf8")).toContain("<svg")
    expect(readFileSync(join(folder, "r.txt"), "utf8")).toContain("step 1 replica 0")
  })

  it("writes the scenario, its files and the plan hash for the studio", async () => {
    const trace = file(
      "s.jsonl",
      `${JSON.stringify({ timestamp: 0, input_length: 90, output_length: 3, hash_ids: [1] })}\n`,
    )
    const { code, out } = await sim(["run", "--trace", "s.jsonl", "--seed", "7", "--studio", "s.studio.json"])
    expect([code, out]).toEqual([0, expect.stringContaining("wrote s.studio.json")])
    const json = JSON.parse(readFileSync(join(folder, "s.studio.json"), "utf8")) as Record<string, unknown>
    expect(json).toEqual({
      format: "uniprefill-studio",
      version: 1,
      scenario: { seed: 7, workload: { trace: "s.jsonl" } },
      files: { "s.jsonl": readFileSync(trace, "utf8") },
      hash: /Plan hash: +(\w+)/.exec(out)![1],
    })
    const policy = await sim(["run", ...small, "--policy", "mine.ts", "--studio", "p.studio.json"])
    expect([policy.code, policy.err]).toEqual([2, expect.stringContaining("cannot run the policy mine.ts, a module")])
  })

  it("changes what a scenario says, when it says", async () => {
    const scenario = file(
      "c.scenario.yaml",
      "workload: { requests: 40, ratePerSecond: 4, promptTokens: 9000 }\nchanges:\n  - { atMicros: 4000000, policy: shortest-prefill, slow: { factor: 4, seconds: 3 } }\n",
    )
    const hashOf = (outcome: Outcome) => /Plan hash: +(\w+)/.exec(outcome.out)![1]
    const plain = await sim(["run", "--requests", "40", "--rate-per-second", "4", "--prompt-tokens", "9000"])
    const changed = await sim(["run", scenario])
    expect([plain.code, changed.code]).toEqual([0, 0])
    expect(hashOf(changed)).not.toBe(hashOf(plain))
    const late = file("l.scenario.yaml", "changes: [{ atMicros: 1, policy: slowest }]\n")
    expect(await sim(["run", late])).toMatchObject({ code: 2, err: expect.stringContaining('there is no "slowest"') })
  })

  it("reads YAML scenarios, whose fields flags override", async () => {
    const scenario = file(
      "a.scenario.yaml",
      "name: from a file\nschedule: 'off'\nworkload:\n  requests: 10\n  promptTokens: 2000\nengine: { slots: 4 }\n",
    )
    const { code, out } = await sim(["run", scenario, "--requests", "7", "--json", "a.json"])
    expect(code).toBe(0)
    expect(out).toContain("7 requests")
    const json = JSON.parse(readFileSync(join(folder, "a.json"), "utf8")) as { scenario: Record<string, unknown> }
    expect(json.scenario).toMatchObject({ name: "from a file", schedule: "off", engine: { slots: 4 } })
  })

  it("ends early on Ctrl-C with a result that says so", async () => {
    const { code, out } = await simProcess(
      ["run", "--requests", "60000", "--rate-per-second", "1", "--json", "partial.json"],
      (child) => {
        // Printed as the run begins, which takes many times as long as a signal.
        child.stdout!.once("data", () => child.kill("SIGINT"))
      },
    )
    expect(code).toBe(130)
    expect(out).toMatch(/PARTIAL RESULT: ended at \d+\.\d s of simulated time, \d+ of 60000 requests done/)
    const json = JSON.parse(readFileSync(join(folder, "partial.json"), "utf8")) as Record<string, number>
    expect(json).toMatchObject({ complete: false })
    expect(json["completed"]).toBeGreaterThan(0)
    expect(json["completed"]).toBeLessThan(60_000)
  })

  it("marks every file of a run that was ended early", async () => {
    const files = ["--html", "cut.html", "--perfetto", "cut.trace", "--why", "cut.txt"]
    const { code } = await simProcess(["run", "--requests", "60000", "--rate-per-second", "1", ...files], (child) => {
      child.stdout!.once("data", () => child.kill("SIGINT"))
    })
    expect(code).toBe(130)
    const text = (name: string) => readFileSync(join(folder, name), "utf8")
    expect(text("cut.html")).toContain("PARTIAL RESULT")
    expect(text("cut.txt")).toMatch(/^PARTIAL RESULT/)
    expect(JSON.parse(text("cut.trace"))).toMatchObject({ metadata: { complete: false } })
  })

  it("says nothing of latencies that no request had", async () => {
    const { code, out } = await sim(["run", "--requests", "3", "--prompt-tokens", "500000"])
    expect(code).toBe(0)
    expect(out).toContain("Rejected requests (could never fit):    3")
    expect(out).toMatch(/Median TTFT \(ms\): +–/)
    expect(out).toMatch(/≥ 128K +3 +– +– +– +– +0\.0/)
  })
})

describe("Ctrl-C", () => {
  const long = ["--requests", "60000", "--rate-per-second", "1"]
  /** Later and later, until the program was up and as far as it should be. */
  const interrupted = async (args: ReadonlyArray<string>, isFar: (outcome: Outcome) => boolean = () => true) => {
    for (let milliseconds = 1500; ; milliseconds *= 2) {
      const outcome = await simProcess(args, (child) => setTimeout(() => child.kill("SIGINT"), milliseconds))
      if ((outcome.code !== null && isFar(outcome)) || milliseconds > 600_000) return outcome
    }
  }

  it.each([
    [["compare", ...long, "--seeds", "2"], /No run was done/],
    [["capacity", ...long], /No rate was tried to its end/],
    [["shrink", "--swarm", "100000"], /ended after \d+ of 100000 scenarios/],
    [["explain", ...long, "--step", "99999999"], /ended after \d+ steps, before step 99999999/],
  ])("ends %j with what is known, marked as partial", async (args, message) => {
    const { code, out, err } = await interrupted(args)
    expect([code, err]).toEqual([130, ""])
    expect(out).toContain("PARTIAL RESULT")
    expect(out).toMatch(message)
  })

  it("leaves the runs of a comparison that were done", async () => {
    const scenario = file(
      "uneven.json",
      JSON.stringify({
        workload: { requests: 20, ratePerSecond: 1 },
        variants: { short: {}, long: { "workload.requests": 200_000 } },
      }),
    )
    const { code, out } = await interrupted(
      ["compare", scenario, "--seeds", "1", "--json", "uneven.out.json"],
      (outcome) => !outcome.out.includes("No run was done"),
    )
    expect(code).toBe(130)
    expect(out).toContain("PARTIAL RESULT")
    expect(out).toContain("TTFT P50")
    const json = JSON.parse(readFileSync(join(folder, "uneven.out.json"), "utf8")) as {
      complete: boolean
      variants: Array<{ name: string }>
    }
    expect(json.complete).toBe(false)
    expect(json.variants.map(({ name }) => name)).toEqual(["short"])
  })
})

describe("bad input is an error that names it, and no report", () => {
  const trace = file("t.csv", "arrival_ms,prompt_tokens,output_tokens\n5,100,10\n4,100,10\n")
  const scenario = file("bad.yaml", "engine:\n  slot: 4\n")
  const broken = file("broken.yaml", "engine: [1,\n")
  const empty = file("empty.jsonl", "")
  const header = file("header.csv", "arrival_ms,prompt_tokens,output_tokens\n")
  const absurd = file("absurd.csv", "arrival_ms,prompt_tokens,output_tokens\n5,3000000000,10\n")
  it.each([
    [["run", "--trace", trace], /t\.csv:3: arrival_ms 4 is before 5 of line 2/],
    [["run", "--trace", "missing.jsonl"], /missing\.jsonl: cannot be read/],
    [["run", scenario], /bad\.yaml: there is no field engine\.slot; did you mean engine\.slots\?/],
    [["run", broken], /broken\.yaml: /],
    [["run", "--slots", "none"], /--slots: .*"none"/],
    [["run", "--model", "gpt-5"], /model: there is no "gpt-5"; there are llama-3\.1-8b/],
    [["run", "--device", "tpu"], /device: there is no "tpu"; there are h200/],
    [["run", "--model", "llama-3.1-70b"], /does not fit: weights 141\.\d\d GB, .* a device; 134\.\d\d GB can be used/],
    [["run", "--policy", "lifo"], /policy: there is no "lifo"; there are fcfs/],
    [["run", "--keep", "0.5,0.6"], /keep: share 0\.6 after 0\.5/],
    [["run", "--prompt-tokens", "uniform:9-3"], /workload\.promptTokens: uniform:9-3 ends below its start/],
    [["run", "--tensor-parallel", "3"], /tensorParallel 3: heads 32 cannot be split into 3 equal parts/],
    [["capacity", "--slo-ttft-ms", "0", "--slo-tpot-ms", "0"], /capacity needs a target/],
    [["sweep"], /no sweep\.over/],
    [["run", "--requests", "1e12"], /workload\.requests 1000000000000 .*at most 10000000/],
    [["run", "--repeat", "1e9"], /workload\.repeat 1000000000: 1000 requests make/],
    [["run", "--prompt-scale", "1e9"], /workload\.promptScale 1000000000: \d+ tokens of request \d+ become/],
    [["run", "--rate-scale", "1e-9"], /workload\.rate 1e-9: request 2 comes after more than ten years/],
    [["run", "--trace", empty], /empty\.jsonl: the file is empty/],
    [["run", "--trace", header], /header\.csv: no requests in the trace/],
    [["run", "--trace", absurd], /absurd\.csv:2: prompt_tokens is 3000000000, expected an integer from 1 to 16777216/],
    [["run", ...small, "--html", "no-such-folder/r.html"], /no-such-folder\/r\.html: cannot be written/],
    [["compare", ...small, "--html", "no-such-folder/r.html"], /no-such-folder\/r\.html: cannot be written/],
    [["compare", ...small, "--seeds", "0"], /--seeds.*at least 1, got 0/],
    [["capacity", "--requests", "1"], /1 requests; a rate of arrivals needs two at different times/],
    [["capacity", ...small, "--attainment", "5"], /--attainment 5: a share above 0, at most 1/],
    [["explain", ...small, "--step", "999999"], /--step 999999 of replica 0: the run has \d+ steps\n/],
    [["explain", ...small, "--step", "0"], /--step.*at least 1, got 0/],
    [["explain", ...small, "--step", "1", "--replica", "1"], /--replica 1: from 0 to 0/],
    [["placement", "--length", "99999999"], /--length 99999999: from 1 to 131063/],
    [["replay", trace], /t\.csv: not gzip data/],
  ])("%j", async (args, message) => {
    const { code, err, out } = await sim([...args, ...(args[0] === "run" ? ["--json", "no.json"] : [])])
    expect(err).toMatch(message)
    expect(code).toBe(2)
    expect(out).not.toContain("Result")
    expect(existsSync(join(folder, "no.json"))).toBe(false)
  })

  it("and ends the process with exit code 2", async () => {
    const { code, err, out } = await simProcess(["run", "--slots", "none"])
    expect([code, out]).toEqual([2, ""])
    expect(err).toMatch(/--slots: .*"none"/)
  })

  it("an SLO that nothing meets is a finding, not a number", async () => {
    const { code, out } = await sim([
      "capacity",
      "--requests",
      "100",
      "--rate-per-second",
      "2",
      "--slo-ttft-ms",
      "0.001",
      "--points",
      "2",
      "--seeds",
      "1",
      "--attainment",
      "0.9",
    ])
    expect(code).toBe(0)
    expect(out).toMatch(/No rate tried meets TTFT ≤ 0\.001 ms/)
  })
})

describe("a planner's question", () => {
  it("of a sweep is ranked by goodput, with attainment, rejections and what the figures rest on beside it", async () => {
    const scenario = file(
      "slabs.json",
      JSON.stringify({
        device: "h100",
        workload: { requests: 60, ratePerSecond: 2, promptTokens: 4000, outputTokens: 20 },
        sweep: { over: { "engine.slabs": [10, 4000] } },
      }),
    )
    const { code, out } = await sim(["sweep", scenario, "--threads", "1", "--csv", "slabs.csv", "--html", "slabs.html"])
    expect(code).toBe(0)
    expect(out).toMatch(
      /engine\.slabs +goodput, req\/s +SLO met % +rejected %.*\n4000 [^\n]*\n10 +0\.000 +0\.0 +100\.0/,
    )
    expect(out).toContain("UNCALIBRATED: datasheet peaks × assumed shares")
    expect(out).toContain("kept rows  assumed")
    const text = (name: string) => readFileSync(join(folder, name), "utf8")
    expect(text("slabs.csv")).toMatch(/,rates,links,kept_rows,accuracy,saturated\n/)
    expect(text("slabs.csv")).toContain("UNCALIBRATED")
    expect(text("slabs.html")).toContain("UNCALIBRATED")
  })

  it.each([
    ["0.95", /too short: of 20 requests one is 5\.0%.*100 requests or more/],
    ["0.5", /too short: of 20 requests one is 5\.0%.*100 requests or more/],
    ["1", /too short: of 20 requests one is 5\.0%.*1000 requests or more/],
  ])("of a trace that one request decides is refused, attainment %s", async (attainment, message) => {
    const { code, err } = await sim(["capacity", "--requests", "20", "--attainment", attainment])
    expect([code, err]).toEqual([2, expect.stringMatching(message)])
  })

  it.each([
    [["--low", "0.5", "--high", "1", "--seeds", "2"], /1\.000 req\/s\. It may be 1\.000 req\/s or more \(.*alike/],
    [["--low", "0.5", "--high", "1", "--seeds", "1"], /It may be 1\.000 req\/s or more \(one seed: the step/],
    [["--low", "1", "--high", "64", "--seeds", "1"], /: 8\.875 req\/s\. It may be from 8\.875 to 12\.813 req\/s \(one/],
  ])("of capacity is answered with the step of the grid, at its edges too: %j", async (rates, message) => {
    const load = ["--requests", "100", "--prompt-tokens", "4000", "--output-tokens", "20", "--schedule", "off"]
    const targets = ["--slo-ttft-ms", "400", "--attainment", "0.9", "--points", "2"]
    const { out } = await sim(["capacity", ...load, "--arrivals", "constant", ...targets, ...rates])
    expect(out).toMatch(message)
  })

  it("may be answered on standard output, with the words for people on standard error", async () => {
    const { code, out, err } = await sim(["run", "--requests", "5", "--keep", "0.5", "--json", "-"])
    expect(code).toBe(0)
    expect(JSON.parse(out)).toMatchObject({
      completed: 5,
      provenance: { kept: { source: "assumed", note: "constant shares 0.5", accuracy: "unknown" } },
    })
    expect(err).toContain("Serving Benchmark Result")
  })

  it("of a load that is too much gets the verdict", async () => {
    const { out } = await sim(["run", "--requests", "400", "--rate-per-second", "20", "--schedule", "off"])
    expect(out).toMatch(/SATURATED: served \S+ of \S+ requests\/s, the queue still growing/)
  })
})

describe("worker threads", () => {
  it("give the hash that the main thread gives", async () => {
    const scenario = file(
      "w.json",
      JSON.stringify({
        workload: { requests: 60, ratePerSecond: 2, promptTokens: "uniform:500-20000" },
        variants: { one: { policy: "fcfs" }, two: { policy: "fcfs" } },
      }),
    )
    const { code, err } = await simProcess(["compare", scenario, "--seeds", "1", "--json", "w.out.json"])
    expect([code, err]).toEqual([0, ""])
    const { variants } = JSON.parse(readFileSync(join(folder, "w.out.json"), "utf8")) as {
      variants: Array<{ summaries: Array<{ hash: string }> }>
    }
    const hashes = variants.flatMap((variant) => variant.summaries.map((summary) => summary.hash))
    await sim(["run", ...small, "--json", "w.main.json"])
    const alone = JSON.parse(readFileSync(join(folder, "w.main.json"), "utf8")) as { plan_hash: string }
    expect(hashes).toEqual([alone.plan_hash, alone.plan_hash])
  })

  it("give the same sweep however many there are", async () => {
    const scenario = file(
      "s.json",
      JSON.stringify({
        workload: { requests: 20, outputTokens: 5 },
        sweep: { over: { schedule: ["off", "preset"], "workload.promptTokens": [2000, 16000, 60000] } },
      }),
    )
    const one = await simProcess([
      "sweep",
      scenario,
      "--threads",
      "1",
      "--ratio",
      "schedule",
      "--csv",
      "s.csv",
      "--html",
      "s.html",
    ])
    const two = await simProcess([
      "sweep",
      scenario,
      "--threads",
      "2",
      "--ratio",
      "schedule",
      "--csv",
      "s.csv",
      "--html",
      "s.html",
    ])
    expect(one.code).toBe(0)
    expect(two.out).toBe(one.out)
    const lines = one.out.split("\n")
    const table = lines.findIndex((line) => line.startsWith("workload.promptTokens"))
    const ratios = lines.slice(table + 1, table + 4).map((line) => Number(line.trim().split(/\s+/)[1]))
    expect(ratios[2]).toBeGreaterThan(1.2)
    expect(readFileSync(join(folder, "s.csv"), "utf8").trim().split("\n")).toHaveLength(7)
  })
})

it("a policy of one's own is a module", async () => {
  file("newest.mjs", 'export default { name: "newest", order: (queue) => queue.map(({ id }) => id).reverse() }\n')
  const mine = await sim(["run", ...small, "--slots", "2", "--policy", "newest.mjs", "--json", "p1.json"])
  expect([mine.code, mine.err]).toEqual([0, ""])
  await sim(["run", ...small, "--slots", "2", "--json", "p2.json"])
  const hash = (name: string) =>
    (JSON.parse(readFileSync(join(folder, name), "utf8")) as { plan_hash: string }).plan_hash
  expect(hash("p1.json")).not.toBe(hash("p2.json"))
  file("empty.mjs", "export const x = 1\n")
  const none = await sim(["run", ...small, "--policy", "empty.mjs"])
  expect([none.code, none.err]).toEqual([2, expect.stringMatching(/empty\.mjs: the default export is missing/)])
})

describe("replay", () => {
  const golden = fileURLToPath(new URL("../../../test/golden/cpu.recording.jsonl.gz", import.meta.url))

  it("of the recorded CPU run decides the same", async () => {
    const { code, out, err } = await sim(["replay", golden])
    expect([code, err]).toEqual([0, ""])
    expect(out).toMatch(/identical {2}[1-9]\d+ plans from [1-9]\d+ events/)
  })

  it("names the first decision that differs", async () => {
    const lines = gunzipSync(readFileSync(golden)).toString("utf8").split("\n")
    const header = JSON.parse(lines[0]!) as { limits: Record<string, unknown> }
    const changed = { ...header, limits: { ...header.limits, slots: 1 } }
    writeFileSync(
      join(folder, "changed.recording.jsonl.gz"),
      gzipSync([JSON.stringify(changed), ...lines.slice(1)].join("\n")),
    )
    const { code, out } = await sim(["replay", "changed.recording.jsonl.gz"])
    expect(code).toBe(1)
    expect(out).toMatch(/DIFFERS {4}at step \d+.*after \d+ equal plans/)
  })

  it("of a file that is none is an error", async () => {
    file("none.gz", "nothing")
    const { code, err } = await sim(["replay", "none.gz"])
    expect([code, err]).toEqual([2, expect.stringContaining("none.gz: ")])
  })
})

it("help teaches: every command has examples, every field its default", async () => {
  const { out } = await sim(["run", "--help"])
  expect(out).toContain("--step-budget-ms")
  expect(out).toContain("(default: 50)")
  expect(out).toContain("uniprefill-sim run --trace mooncake-conversation-slice")
})

it("checks random scenarios", async () => {
  const { code, out } = await sim(["shrink", "--swarm", "3"])
  expect([code, out]).toEqual([0, "3 scenarios checked: no invariant broke.\n"])
})
