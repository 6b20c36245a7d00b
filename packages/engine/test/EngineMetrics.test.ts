import { assert, describe, it } from "@effect/vitest"
import { Engine } from "@uniprefill/engine/Engine"
import { Effect, Fiber, Metric } from "effect"
import { PrometheusMetrics } from "effect/observability"
import { TestClock } from "effect/testing"
import { collect, engineLayer, request } from "./EngineHarness.ts"
import { ScriptedExecutor } from "./ScriptedExecutor.ts"

const model = `model_name="needle",engine="0"`

describe("metrics", () => {
  it.effect("print under vLLM's names, exactly", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({ outputs: () => [10], stepMillis: 20 })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const before = yield* PrometheusMetrics.format()
        assert.include(before, `vllm:num_requests_running{${model}} 0\n`)
        assert.include(before, `vllm:request_success_total{${model},finished_reason="abort"} 0\n`)
        assert.include(before, `vllm:cache_config_info{${model},block_size="64",num_gpu_blocks="512"} 1\n`)
        assert.include(before, `uniprefill:rank_info{${model},rank="0",device="script"} 1\n`)

        const prompt = Array.from({ length: 1_100 }, () => 3)
        const done = yield* Effect.forkChild(collect(engine, request(prompt, { maxTokens: 4 })))
        const left = yield* Effect.forkChild(collect(engine, request([5], { maxTokens: 1_000 })))
        yield* TestClock.adjust(30)
        const during = yield* PrometheusMetrics.format()
        assert.include(during, `vllm:num_requests_running{${model}} 2\n`)
        assert.include(during, `vllm:num_requests_waiting{${model}} 0\n`)
        assert.match(during, /vllm:kv_cache_usage_perc\{model_name="needle",engine="0"\} 0\.\d+\n/)
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(done)
        yield* Fiber.interrupt(left)
        yield* TestClock.adjust(30)

        const { times, kept } = (yield* Fiber.join(done)).finished
        const after = yield* PrometheusMetrics.format()
        const lines = [
          "# TYPE vllm:prompt_tokens_total counter",
          `vllm:prompt_tokens_total{${model}} 1101`,
          "# TYPE vllm:request_success_total counter",
          `vllm:request_success_total{${model},finished_reason="length"} 1`,
          `vllm:request_success_total{${model},finished_reason="abort"} 1`,
          `vllm:request_success_total{${model},finished_reason="error"} 0`,
          `vllm:num_requests_running{${model}} 0`,
          `vllm:kv_cache_usage_perc{${model}} 0`,
          `vllm:num_preemptions_total{${model}} 0`,
          "# TYPE vllm:time_to_first_token_seconds histogram",
          `vllm:time_to_first_token_seconds_count{${model}} 2`,
          `vllm:inter_token_latency_seconds_bucket{${model},le="0.01"} 0`,
          `vllm:request_queue_time_seconds_count{${model}} 2`,
          `vllm:request_prefill_time_seconds_count{${model}} 2`,
          `vllm:request_decode_time_seconds_count{${model}} 2`,
          `vllm:request_time_per_output_token_seconds_count{${model}} 2`,
          `vllm:request_prompt_tokens_bucket{${model},le="1000"} 1`,
          `vllm:request_prompt_tokens_bucket{${model},le="2000"} 2`,
          `vllm:request_generation_tokens_bucket{${model},le="2"} 0`,
          `vllm:request_generation_tokens_bucket{${model},le="5"} 1`,
          `vllm:iteration_tokens_total_count{${model}} ${executor.stepCalls}`,
          `uniprefill:kept_ratio_count{${model},segment="1"} 1`,
          `uniprefill:kept_ratio_sum{${model},segment="1"} ${kept[1]}`,
          `uniprefill:kept_ratio_sum{${model},segment="2"} ${kept[2]}`,
          `uniprefill:selection_fallbacks_total{${model}} 0`,
        ]
        for (const line of lines) assert.include(after.split("\n"), line)

        const value = (name: string) => Number(new RegExp(`^${name}\\{.*\\} (.*)$`, "m").exec(after)![1])
        assert.strictEqual(value("vllm:generation_tokens_total"), value("vllm:inter_token_latency_seconds_count") + 2)
        // The one that left did so after 1,030 ms.
        const latency = (times.finishedMicros - times.arrivedMicros + 1_030_000) / 1e6
        assert.closeTo(value("vllm:e2e_request_latency_seconds_sum"), latency, 1e-9)
        // 18 pages of 64 rows for the prompt in each of the two later segments.
        const pages = kept.slice(1).map((ratio) => Math.ceil(Math.round(ratio * 1_100) / 64))
        assert.strictEqual(value("uniprefill:kv_pages_saved_total"), 18 - pages[0]! + 18 - pages[1]!)
        assert.strictEqual(value("vllm:iteration_tokens_total_sum"), 1_101 + value("vllm:generation_tokens_total"))
      }).pipe(Effect.provide(engineLayer(executor)), Effect.provideService(Metric.MetricRegistry, new Map()))
    }),
  )

  it.effect("show what each tenant has running and waiting, and take it away with the engine", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({ outputs: () => [10], stepMillis: 20, slots: 1 })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const ask = (tenant: string, length: number) =>
          Effect.forkChild(collect(engine, request(new Array<number>(length).fill(3), { tenant, maxTokens: 1_000 })))
        const asked = [yield* ask("key-1", 5)]
        yield* TestClock.adjust(30)
        for (const [tenant, length] of [
          ["key-2", 7],
          ["key-2", 9],
          ["", 11],
        ] as const) {
          asked.push(yield* ask(tenant, length))
        }
        yield* TestClock.adjust(30)
        const during = (yield* PrometheusMetrics.format()).split("\n")
        for (const line of [
          `uniprefill:tenant_requests_running{${model},tenant="key-1"} 1`,
          `uniprefill:tenant_requests_waiting{${model},tenant="key-1"} 0`,
          `uniprefill:tenant_requests_running{${model},tenant="key-2"} 0`,
          `uniprefill:tenant_requests_waiting{${model},tenant="key-2"} 2`,
          `uniprefill:tenant_waiting_tokens{${model},tenant="key-2"} 16`,
          `vllm:num_requests_waiting{${model}} 3`,
        ]) {
          assert.include(during, line)
        }
        assert.lengthOf(
          during.filter((line) => line.startsWith("uniprefill:tenant_requests_waiting{")),
          2,
        )
        for (const one of asked) yield* Fiber.interrupt(one)
        yield* TestClock.adjust("1 second")
        const after = (yield* PrometheusMetrics.format()).split("\n")
        assert.include(after, `uniprefill:tenant_requests_running{${model},tenant="key-1"} 0`)
        assert.include(after, `uniprefill:tenant_requests_waiting{${model},tenant="key-2"} 0`)
      }).pipe(Effect.provide(engineLayer(executor)))
      assert.notInclude(yield* PrometheusMetrics.format(), "uniprefill:tenant")
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())),
  )
})
