import { describe, expect, it } from "vitest"
import { Metrics, nothing, settled } from "./Metrics.ts"
import { ServeProcess } from "./ServeProcess.ts"
import { soak } from "./Soak.ts"

/** `npm run bench -- soak` is the same for two minutes. */
const options = { clients: 64, shortTokens: 40, longTokens: 2000, maxTokens: 24, seed: 7 }

describe("clients that come, leave in the middle and come again", () => {
  it.each([
    ["the simulated executor", ["--executor", "sim", "--time-scale", "0.001", "--sim-output", "random"], 12],
    ["the embedded model", ["--max-num-seqs", "16"], 2],
  ] as const)("each get what they would have got alone, from %s", async (_, settings, requests) => {
    await using server = await ServeProcess.start(...settings, "--log-level", "warn")
    const report = await soak(server, { ...options, lasts: { requests } })
    expect({ wrong: report.wrong, failed: report.failed }).toEqual({ wrong: [], failed: [] })
    expect(report.answers + report.aborted).toBe(options.clients * requests)
    expect(report.aborted).toBeGreaterThan(5)
    expect(await settled(server.url)).toEqual(nothing)

    // Every metric that a dashboard asks for is there, and what belongs together adds up.
    const metrics = await Metrics.read(server.url)
    const ended = metrics.value("vllm:request_success_total")!
    expect(metrics.value("uniprefill:requests_started_total")).toBe(ended)
    expect(metrics.value("vllm:request_success_total", { finished_reason: "abort" })).toBeGreaterThan(0)
    expect(metrics.value("vllm:e2e_request_latency_seconds_count")).toBe(ended)
    expect(metrics.value("vllm:request_params_n_count")).toBe(ended)
    expect(metrics.value("vllm:request_params_max_tokens_count")).toBe(ended)
    expect(metrics.value("vllm:request_max_num_generation_tokens_count")).toBe(ended)
    expect(metrics.value("vllm:prompt_tokens_by_source_total")).toBe(metrics.value("vllm:prompt_tokens_total"))
    const cached = metrics.value("vllm:prompt_tokens_by_source_total", { source: "local_cache_hit" })
    expect(metrics.value("vllm:prompt_tokens_cached_total")).toBe(cached)
    expect(cached).toBeGreaterThan(0)
    expect(metrics.value("vllm:prefix_cache_hits_total")).toBeGreaterThanOrEqual(cached!)
    const first = metrics.value("vllm:time_to_first_token_seconds_count")!
    expect(metrics.value("vllm:inter_token_latency_seconds_count")).toBe(
      metrics.value("vllm:generation_tokens_total")! - first,
    )
    // Of every prompt of 2,000 tokens that was computed.
    expect(metrics.value("uniprefill:kept_ratio_count")).toBeGreaterThan(10)
    expect(metrics.value("uniprefill:selection_seconds_count")).toBe(metrics.value("uniprefill:kept_ratio_count"))
    const selecting = metrics.value("uniprefill:selection_seconds_sum")!
    expect(selecting).toBeGreaterThan(0)
    expect(selecting).toBeLessThan(metrics.value("vllm:request_prefill_time_seconds_sum")!)
    // Each is in its place: what is waited for, and what has been done meanwhile.
    const sum = (name: string) => metrics.value(`vllm:${name}_sum`)!
    expect(sum("request_queue_time_seconds") + sum("request_prefill_time_seconds")).toBeCloseTo(
      sum("time_to_first_token_seconds"),
      3,
    )
    expect(sum("request_prefill_time_seconds") + sum("request_decode_time_seconds")).toBeCloseTo(
      sum("request_inference_time_seconds"),
      3,
    )
    expect(sum("request_prompt_tokens")).toBeGreaterThanOrEqual(metrics.value("vllm:prompt_tokens_total")!)
    expect(sum("request_generation_tokens")).toBe(metrics.value("vllm:generation_tokens_total"))
    expect(sum("iteration_tokens_total")).toBeGreaterThan(metrics.value("vllm:generation_tokens_total")!)
    expect(metrics.value("vllm:admission_rejections_total")).toBe(0)
    expect(metrics.value("vllm:num_requests_waiting_by_reason")).toBe(0)
    expect(metrics.value("vllm:num_preemptions_total")).toBeGreaterThanOrEqual(0)
    expect(metrics.value("vllm:corrupted_requests_total")).toBe(0)
    expect(metrics.value("http_requests_total", { status: "5xx" }) ?? 0).toBe(0)
  })
})
