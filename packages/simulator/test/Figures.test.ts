import { layerParameters } from "@uniprefill/model/Parameters"
import { StepLoad } from "@uniprefill/scheduler/StepLoad"
import { RequestStatus } from "@uniprefill/simulator/metrics/RequestLog"
import { saturationText } from "@uniprefill/simulator/metrics/Saturation"
import { summarise } from "@uniprefill/simulator/metrics/Summary"
import { modelPresets } from "@uniprefill/simulator/model/ModelPresets"
import { htmlReport } from "@uniprefill/simulator/output/HtmlReport"
import { resultJson } from "@uniprefill/simulator/output/Json"
import { provenanceOf, provenanceTable } from "@uniprefill/simulator/output/Provenance"
import { runReport } from "@uniprefill/simulator/output/RunReport"
import { benchTable } from "@uniprefill/simulator/output/Table"
import { buildExperiment } from "@uniprefill/simulator/scenario/Build"
import { withDefaults, type Scenario } from "@uniprefill/simulator/scenario/Scenario"
import { driverConfig } from "@uniprefill/simulator/Setup"
import { type Observer, Simulation } from "@uniprefill/simulator/Simulation"
import { describe, expect, it } from "vitest"
import { experimentOf, noHost, simulated } from "./Experiments.ts"

/** Every reported figure against a count of its own: a figure that is off by a factor makes the test of its name fail. */

const options = { slo: { ttftMs: 0, tpotMs: 0 }, warmupRequests: 0, gpuHourPrice: 0 }
const busy: Scenario = {
  replicas: 2,
  schedule: "off",
  faults: { cancelled: 0.3, cancelWithinMs: 4000 },
  workload: { requests: 80, ratePerSecond: 6, promptTokens: 4000, outputTokens: 60 },
}

describe("a run's figure", () => {
  it("utilisation is the devices' time in steps, of all their time", () => {
    let micros = 0
    const simulation = simulated(busy, { stepStarted: (_, step) => void (micros += step.deviceMicros) })
    expect(summarise(simulation, options).utilisation).toBeCloseTo(micros / (2 * simulation.now), 12)
  })

  it("MFU is the model's operations over what the devices could do in all the time", () => {
    const [prompt, outputs] = [4096, 9]
    const simulation = simulated({
      schedule: "off",
      host: noHost,
      workload: { arrivals: "closed", clients: 1, requests: 1, promptTokens: prompt, outputTokens: outputs },
    })
    const { spec } = modelPresets.get("llama-3.1-8b")!.shape
    const matrices = spec.layers.map((layer) => layerParameters(spec, layer))
    const all = matrices.reduce((sum, { kv, mixer, mlp }) => sum + kv + mixer + mlp, 0)
    const { mixer, mlp } = matrices[31]!
    const head = spec.hiddenSize * spec.vocabSize
    const pair = 4 * 32 * 128
    // Prefill computes K and V alone in the last layer; each later token passes everything.
    const prefill = 2 * (all - mixer - mlp) * prompt + (31 * pair * prompt * (prompt + 1)) / 2
    let decode = 0
    for (let i = 1; i < outputs; i++) decode += 2 * (all + head) + 32 * pair * (prompt + i)
    const expected = (prefill + decode) / ((simulation.now / 1e6) * 989e12)
    expect(summarise(simulation, options).mfu / expected).toBeCloseTo(1, 6)
  })

  it("memory in use is that of the pool over time", () => {
    let area = 0
    let before = 0
    let used = 0
    const instant: Observer["instant"] = ({ now, replicas }) => {
      area += used * (now - before)
      before = now
      used = replicas.reduce((sum, { driver }) => {
        const { pool, tree } = driver.scheduler.memory
        return sum + pool.used - tree.idleSlabs
      }, 0)
    }
    const scenario = { ...busy, faults: {}, workload: { ...busy.workload, requests: 400 } } as Scenario
    const simulation = simulated(scenario, { instant })
    const pool = simulation.replicas.reduce((sum, { config }) => sum + config.slabs, 0)
    const { memoryMean, memoryMax } = summarise(simulation, options)
    expect(memoryMean / (area / before / pool)).toBeGreaterThan(0.9)
    expect(memoryMean / (area / before / pool)).toBeLessThan(1.1)
    expect(memoryMax).toBeGreaterThan(memoryMean)
  })

  it("throughput counts the tokens of completed requests alone", () => {
    const simulation = simulated(busy)
    const { log, workload, now } = simulation
    let outputs = 0
    let inputs = 0
    let lost = 0
    for (let row = 0; row < log.count; row++) {
      if (log.status[row] === RequestStatus.completed) {
        outputs += log.outputs[row]!
        inputs += workload.promptTokens[row]!
      } else lost += log.outputs[row]!
    }
    expect(lost).toBeGreaterThan(0)
    const summary = summarise(simulation, options)
    expect(summary.outputTokensPerSecond).toBeCloseTo(outputs / (now / 1e6), 9)
    expect(summary.inputTokensPerSecond).toBeCloseTo(inputs / (now / 1e6), 9)
    expect(summary.requestsPerSecond).toBeCloseTo(summary.completed / (now / 1e6), 9)
  })

  it("prefix hits are the pages that were there, to the token", () => {
    // The second prompt shares 8 of the first one's blocks of 512; nothing else runs.
    const blocks = (first: number) => Array.from({ length: 12 }, (_, i) => (i < 8 ? i : first + i))
    const rows = [0, 60_000, 120_000].map((timestamp, i) =>
      JSON.stringify({ timestamp, input_length: 6144, output_length: 4, hash_ids: blocks(100 * i) }),
    )
    const scenario = withDefaults({ schedule: "off", workload: { trace: "t.jsonl" } })
    const { setup, workload } = buildExperiment(scenario, () => rows.join("\n"))
    const simulation = new Simulation(setup, workload)
    simulation.advance()
    expect([...simulation.log.cachedTokens]).toEqual([0, 4096, 4096])
    expect(summarise(simulation, options).cachedTokens).toBe(8192)
  })

  it("routing by prefixes brings a conversation back to where its pages are", () => {
    const hits = (router: string) => {
      const simulation = simulated({
        replicas: 4,
        router,
        schedule: "off",
        workload: {
          arrivals: "sessions",
          requests: 160,
          turns: 4,
          ratePerSecond: 2,
          promptTokens: 6000,
          outputTokens: 40,
        },
      } as Scenario)
      return summarise(simulation, options).cachedTokens
    }
    const [aware, least, round] = [hits("prefix-aware"), hits("least-loaded"), hits("round-robin")]
    expect(aware).toBeGreaterThan(1.5 * least)
    expect(aware).toBeGreaterThan(1.5 * round)
  })

  it("a selection costs the scoring of the set's keys by the last queries, twice", () => {
    const { costModel } = driverConfig(experimentOf({ host: noHost }).setup)
    const load = new StepLoad(7)
    load.items = 1
    load.addSelection(1, 0, 32_768)
    // 128 queries of 32 heads of 128: Q·K in two passes, at the rate of the shortest attention measured.
    const flops = 2 * 2 * 32_768 * 128 * 32 * 128
    expect(costModel.stepMicros(load)).toBe(Math.ceil(flops / 588e6))
    expect(costModel.terms(load).map(({ name }) => name)).toContain("segment 0: selection")
  })
})

describe("what is printed and written", () => {
  // Some of everything: requests that fail and are cancelled, shared prefixes, selections, a price, a load that is too much.
  const scenario: Scenario = {
    replicas: 2,
    gpuHourPrice: 3,
    router: "prefix-aware",
    engine: { slots: 16, slabs: 20_000 },
    faults: { cancelled: 0.2, cancelWithinMs: 4000, failedSteps: 0.003 },
    workload: {
      arrivals: "sessions",
      requests: 200,
      turns: 3,
      ratePerSecond: 1,
      thinkMs: 500,
      promptTokens: 5000,
      outputTokens: 60,
    },
  }
  const experiment = experimentOf(scenario)
  const simulation = simulated(scenario)
  const summary = summarise(simulation, experiment.summary)
  const share = (value: number) => (value * 100).toFixed(2)

  it("tells figures apart: none of those compared is 0, nor like another", () => {
    const { completed, aborted, failed, cachedTokens, mfu, utilisation, memoryMean, memoryMax } = summary
    const compared = [completed, aborted, failed, cachedTokens, mfu, utilisation, memoryMean, memoryMax]
    expect(new Set(compared.map((value) => value.toPrecision(3))).size).toBe(compared.length)
    for (const value of compared) expect(value).toBeGreaterThan(0)
  })

  it("JSON has every figure as it was summed up", () => {
    const json = resultJson(summary, {})
    const latencies = {
      ttft: summary.ttft,
      tpot: summary.tpot,
      itl: summary.itl,
      e2el: summary.e2e,
      queueing: summary.queueing,
      max_itl: summary.maxItl,
      normalised: summary.normalised,
    }
    for (const [name, { mean, p50, std, p90, p95, p99, max }] of Object.entries(latencies)) {
      const written = ["mean", "median", "std", "p90", "p95", "p99", "max"].map((of) => json[`${of}_${name}_ms`])
      expect([name, ...written]).toEqual([name, mean, p50, std, p90, p95, p99, max])
    }
    expect(json).toMatchObject({
      duration: summary.durationSeconds,
      num_prompts: summary.offered,
      completed: summary.completed,
      failed: summary.failed,
      rejected: summary.rejected,
      too_long: summary.tooLong,
      aborted: summary.aborted,
      timed_out: summary.timedOut,
      unfinished: summary.unfinished,
      total_input_tokens: summary.inputTokens,
      total_output_tokens: summary.outputTokens,
      cached_input_tokens: summary.cachedTokens,
      request_throughput: summary.requestsPerSecond,
      request_goodput: summary.goodput,
      output_throughput: summary.outputTokensPerSecond,
      total_token_throughput: summary.inputTokensPerSecond + summary.outputTokensPerSecond,
      slo_attainment: summary.attainment,
      kept_shares: summary.keptShares,
      memory_mean: summary.memoryMean,
      memory_max: summary.memoryMax,
      utilisation: summary.utilisation,
      mfu: summary.mfu,
      steps: summary.steps,
      steps_outside_calibration: summary.stepsOutsideCalibration,
      steps_failed: summary.stepsFailed,
      preemptions: summary.preemptions,
      lowered_requests: summary.lowered,
      over_budget_chunks: summary.overBudgetChunks,
      gpu_hours: summary.gpuHours,
      price_per_million_output_tokens: summary.pricePerMillionOutputTokens,
      price_per_million_tokens: summary.pricePerMillionTokens,
      plan_hash: summary.hash,
    })
  })

  it("the table has the same figures", () => {
    const table = new Map(
      benchTable(summary)
        .split("\n")
        .map((line) => /^(.+?):\s+(.+)$/.exec(line))
        .flatMap((found) => (found === null ? [] : [[found[1]!, found[2]!] as const])),
    )
    const said: Readonly<Record<string, string>> = {
      "Successful requests": `${summary.completed}`,
      "Aborted requests": `${summary.aborted}`,
      "Failed requests": `${summary.failed}`,
      "Total input tokens": `${summary.inputTokens}`,
      "Total generated tokens": `${summary.outputTokens}`,
      "Request throughput (req/s)": summary.requestsPerSecond.toFixed(2),
      "Request goodput (req/s)": summary.goodput.toFixed(2),
      "Output token throughput (tok/s)": summary.outputTokensPerSecond.toFixed(2),
      "Total token throughput (tok/s)": (summary.inputTokensPerSecond + summary.outputTokensPerSecond).toFixed(2),
      "Mean TTFT (ms)": summary.ttft.mean.toFixed(2),
      "P99 TTFT (ms)": summary.ttft.p99.toFixed(2),
      "Median TPOT (ms)": summary.tpot.p50.toFixed(2),
      "P95 ITL (ms)": summary.itl.p95.toFixed(2),
      "Max E2EL (ms)": summary.e2e.max.toFixed(2),
      "Queueing delay, P99 (ms)": summary.queueing.p99.toFixed(2),
      "Longest gap of a request, P99 (ms)": summary.maxItl.p99.toFixed(2),
      "SLO attainment, of all offered (%)": share(summary.attainment),
      "Memory pool in use, mean / max (%)": `${share(summary.memoryMean)} / ${share(summary.memoryMax)}`,
      "Devices computing (%)": share(summary.utilisation),
      "Model FLOP utilisation (%)": share(summary.mfu),
      "Steps outside of what was measured (%)": share(summary.outsideShare),
      "Prefix-cache hits (% of input)": share(summary.cachedTokens / summary.inputTokens),
      "GPU hours": summary.gpuHours.toFixed(2),
      "Price per 1M output tokens": summary.pricePerMillionOutputTokens.toPrecision(3),
      "Plan hash": summary.hash,
    }
    for (const [label, value] of Object.entries(said)) expect([label, table.get(label)]).toEqual([label, value])
  })

  it("so has the page", () => {
    const report = runReport("run", [], experiment, simulation, summary)
    const page = htmlReport({ title: "t", complete: true, findings: [], runs: [report], charts: [] })
    const said: Readonly<Record<string, string>> = {
      "goodput, req/s": `${summary.goodput.toFixed(2)} of ${summary.requestsPerSecond.toFixed(2)}`,
      "SLO met, of all offered": `${(summary.attainment * 100).toFixed(1)}%`,
      "memory mean / max": `${(summary.memoryMean * 100).toFixed(0)}% / ${(summary.memoryMax * 100).toFixed(0)}%`,
      "rows kept at the end": `${(summary.keptShares.at(-1)! * 100).toFixed(0)}%`,
      "GPU hours": summary.gpuHours.toFixed(2),
      MFU: `${(summary.mfu * 100).toFixed(1)}%`,
      "completed of offered": `${summary.completed} of ${summary.offered}`,
    }
    for (const [label, value] of Object.entries(said)) expect(page).toContain(`<tr><th>${label}</th><td>${value}</td>`)
  })
})

describe("what no request had", () => {
  it("is null in JSON, and a request of one token has no time per token", () => {
    const simulation = simulated({
      schedule: "off",
      workload: { arrivals: "closed", clients: 1, requests: 1, promptTokens: 300, outputTokens: 1 },
    })
    const text = JSON.stringify(resultJson(summarise(simulation, options), {}))
    const json = JSON.parse(text) as Record<string, unknown>
    expect(json).toMatchObject({ completed: 1, p99_tpot_ms: null, mean_itl_ms: null, max_itl_ms: null })
    expect(json["price_per_million_tokens"]).toBeNull()
    expect(json["p99_ttft_ms"]).toBeGreaterThan(0)
  })
})

describe("a load beyond what is served", () => {
  const loaded = (ratePerSecond: number) =>
    summarise(
      simulated({
        schedule: "off",
        workload: { requests: 300, ratePerSecond, promptTokens: 8000, outputTokens: 50 },
      }),
      options,
    ).saturation

  it("is a verdict, with both rates and the queue", () => {
    const saturation = loaded(20)!
    expect(saturation.isSaturated).toBe(true)
    expect(saturation.served).toBeLessThan(0.5 * saturation.offered)
    expect(saturationText(saturation)).toMatch(
      /^SATURATED: served \d+\.\d\d of \d+\.\d\d requests\/s, the queue still growing \(\d+ halfway, \d+ at/,
    )
  })

  it("is none where the load is served, or follows the service", () => {
    expect(saturationText(loaded(1))).toBeNull()
    const closed = simulated({ workload: { arrivals: "closed", clients: 64, requests: 200, promptTokens: 8000 } })
    // A first turn of each client arrives by itself; all others wait for an answer.
    expect(summarise(closed, options).saturation).toBeNull()
  })
})

describe("provenance", () => {
  const provenance = (scenario: Scenario) => {
    const experiment = experimentOf(scenario)
    const simulation = new Simulation(experiment.setup, experiment.workload)
    simulation.advance()
    return provenanceOf(experiment, summarise(simulation, options))
  }
  const workload = { requests: 20, promptTokens: 3000, outputTokens: 20 } as const

  it("says calibrated only where most steps lie within what was measured", () => {
    // Prompts of 3,000 tokens are chunks below the 8,192 rows that were measured.
    const short = provenance({ schedule: "off", workload: { ...workload, outputTokens: 1 } })
    expect(short).toMatchObject({
      rates: "extrapolated",
      ratesNote: expect.stringMatching(/^EXTRAPOLATED: \S+% of steps/),
    })
    const decoding = provenance({ schedule: "off", workload: { ...workload, outputTokens: 200 } })
    expect(decoding).toMatchObject({ rates: "calibrated", kept: null, link: null })
    expect(decoding.outsideShare).toBeGreaterThan(0)
    expect(provenance({ device: "h100", workload })).toMatchObject({
      rates: "assumed",
      ratesNote: "UNCALIBRATED: datasheet peaks × assumed shares",
      kept: { source: "assumed", accuracy: expect.stringContaining("unknown for other models") },
    })
  })

  it("names the links, and a calibration that was fitted to something else", () => {
    expect(provenance({ device: "h100", tensorParallel: 2, workload }).link).toBe("nccl between 2 ranks, measured")
    expect(provenance({ device: "h100", tensorParallel: 8, workload }).link).toBe("nccl between 8 ranks, public")
    const device = experimentOf({}).setup.device
    const calibration = {
      ...device.calibration!,
      source: "fitted" as const,
      fittedTo: { model: "llama-3.1-70b", tensorParallel: 4 },
    }
    const experiment = experimentOf({ schedule: "off", workload: { ...workload, outputTokens: 200 } })
    const fitted = { ...experiment, setup: { ...experiment.setup, device: { ...device, calibration } } }
    const simulation = new Simulation(fitted.setup, fitted.workload)
    simulation.advance()
    expect(provenanceOf(fitted, summarise(simulation, options)).ratesNote).toMatch(
      /^fitted to recorded runs, .*; fitted to llama-3\.1-70b at tensor parallel 4, which this is not$/,
    )
  })

  it("of several runs stands once where it is alike, and by name where it is not", () => {
    const [dense, dropping] = [provenance({ schedule: "off", workload }), provenance({ device: "l40s", workload })]
    const lines = provenanceTable([
      { name: "a", provenance: dense },
      { name: "b", provenance: dropping },
      { name: "c", provenance: dense },
    ])
    expect(lines[0]).toBe("a, c:")
    expect(lines).toContain("b:")
    expect(lines.join("\n")).toMatch(/UNCALIBRATED[\s\S]*kept rows {2}assumed/)
    expect(provenanceTable([{ name: "a", provenance: dense }])[0]).toMatch(/^rates/)
  })

  it("of runs that differ in their shares of steps alone is one statement, from the least to the largest", () => {
    const one = provenance({ schedule: "off", workload: { ...workload, outputTokens: 200 } })
    const share = one.ratesNote.replace("calibrated, ", "")
    const of = (outsideShare: number) => ({
      ...one,
      outsideShare,
      ratesNote: `calibrated, ${share.replace(/^\S+%/, `${outsideShare * 100}%`)}`,
    })
    const runs = [0.25, 0.02, 0.1].map((outsideShare, i) => ({ name: `seed ${i}`, provenance: of(outsideShare) }))
    const [line, ...more] = provenanceTable(runs)
    expect(line).toBe("rates      NVIDIA H200 SXM: calibrated, 2% to 25% of steps outside of what was measured")
    expect(more).toEqual([])
  })

  it("of a lowered p says what the accuracy is of, and from which share of requests to which", () => {
    const of = (p: number, share: number) => ({
      ...provenance({ schedule: "off", workload }),
      lowered: { p, share, source: "assumed", note: "by length", accuracy: "unknown" },
    })
    const runs = [of(0.9, 0.1), of(0.9, 0.2), of(0.5, 0.3)]
    const lines = provenanceTable(runs.map((one, i) => ({ name: i < 2 ? "a" : "b", provenance: one })))
    expect(lines.slice(lines.indexOf("a:"))).toEqual([
      "a:",
      "  lowered p  0.9 for 10% to 20% of requests, whose kept rows are assumed: by length",
      "             accuracy at 0.9: unknown",
      "b:",
      "  lowered p  0.5 for 30% of requests, whose kept rows are assumed: by length",
      "             accuracy at 0.5: unknown",
    ])
  })

  it("says what holds for all once, and names at most four of those that the rest holds for", () => {
    const [h100, l40s] = [provenance({ device: "h100", workload }), provenance({ device: "l40s", workload })]
    const lines = provenanceTable([
      ...[1, 2, 3, 4, 5].map((rate) => ({ name: `rate ${rate}`, provenance: h100 })),
      { name: "other", provenance: l40s },
    ])
    expect(lines.filter((line) => line.includes("accuracy"))).toHaveLength(1)
    expect(lines.slice(2)).toEqual([
      "rate 1, rate 2, rate 3 and 2 others:",
      "  rates      NVIDIA H100 SXM: UNCALIBRATED: datasheet peaks × assumed shares",
      "other:",
      "  rates      NVIDIA L40S: UNCALIBRATED: datasheet peaks × assumed shares",
    ])
  })

  it.each([1, 2, 4])(
    "counts steps outside of what was measured among those that compute: %i ranks",
    (tensorParallel) => {
      const alone = { arrivals: "closed", clients: 1, requests: 1, promptTokens: 40_000, outputTokens: 9 } as const
      const { outsideShare } = provenance({ tensorParallel, workload: alone })
      expect(outsideShare).toBeGreaterThan(0)
      expect(outsideShare).toBeLessThanOrEqual(1)
    },
  )
})

describe("all-reduces", () => {
  it("take what was measured between two H100, and was published for four and eight", async () => {
    const { nvlink4 } = await import("@uniprefill/cost-model/Links")
    const { LinkTime } = await import("@uniprefill/cost-model/LinkTime")
    const micros = (ranks: number, bytes: number) =>
      new LinkTime(nvlink4.find((one) => one.library === "nccl" && one.ranks === ranks)!).microsOf(bytes)
    const mega = 1024 * 1024
    expect([micros(2, 64 * mega), micros(2, 1024 * mega)]).toEqual([256, 3224])
    expect([micros(4, mega), micros(8, mega)]).toEqual([40, 45])
  })
})

describe("Llama-2-70B decoding alone on H100, from tensor parallel 2 to 8", () => {
  const config = {
    architectures: ["LlamaForCausalLM"],
    hidden_size: 8192,
    intermediate_size: 28_672,
    num_hidden_layers: 80,
    num_attention_heads: 64,
    num_key_value_heads: 8,
    vocab_size: 32_000,
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-5,
  }
  const decode = (tensorParallel: number, more: Scenario) => {
    const scenario = withDefaults({ model: "m.json", schedule: "off", device: "h100", tensorParallel, ...more })
    const { costModel } = driverConfig(buildExperiment(scenario, () => JSON.stringify(config)).setup)
    const load = new StepLoad(1)
    load.decodeRows = 1
    load.addDecodes(0, 1, 1024)
    return costModel.stepMicros(load) / 1000
  }

  it("gains what launches and all-reduces leave: about 2 ×, not 3.3", () => {
    const gain = decode(2, {}) / decode(8, {})
    expect(gain).toBeGreaterThan(1.7)
    expect(gain).toBeLessThan(2.3)
  })

  it("gains 1.2 × on the public stack without CUDA graphs, whose launches are a floor: 37, 29 and 30 ms", () => {
    const eager: Scenario = { engine: { efficiency: 0.68 }, host: { launchMicros: 0, layerMicros: 365 } }
    const [two, four, eight] = [decode(2, eager), decode(4, eager), decode(8, eager)]
    for (const [made, published] of [
      [two, 37.4],
      [four, 29.5],
      [eight, 30.5],
    ] as const) {
      expect([published, Math.abs(made / published - 1) < 0.06, made]).toEqual([published, true, made])
    }
    expect(two / eight).toBeCloseTo(1.25, 1)
  })
})
