import type { RankInfo } from "@uniprefill/executor/contract/Executor"
import type { KvLayout } from "@uniprefill/model/KvLayout"
import type { FinishReason } from "@uniprefill/scheduler/Request"
import type { Tenants } from "@uniprefill/scheduler/Tenants"
import { pagesFor } from "@uniprefill/units/Units"
import { type Context, Effect, Metric, type Scope } from "effect"
import type { EngineError, GenerateRequest } from "./Engine.ts"
import type { Generation } from "./Generation.ts"
import { TenantMetrics, type TenantQueue, type TenantSeries } from "./TenantMetrics.ts"

/**
 * What the engine counts, under vLLM's names so that existing dashboards work, in Effect's metric registry. Updated once
 * per step, selection or finished request; counters carry `_total` in their name because exporters print names as they are.
 */
export interface EngineMetrics {
  /** A step has been committed: prompt rows of the first segment, and tokens sampled. */
  readonly step: (promptRows: number, tokens: number) => void
  /** Shows how full the engine is whenever metrics are read, until the scope closes. */
  readonly watch: (load: () => EngineLoad, tenants: Tenants) => Effect.Effect<void, never, Scope.Scope>
  /** `kept` of `before` rows stay after a segment; `fallback`: scores were not finite and everything was kept. */
  readonly selected: (segment: number, before: number, kept: number, prompt: number, fallback: boolean) => void
  /** A selection took so long. */
  readonly selectionTook: (micros: number) => void
  /** What is measured of a prompt is measured with its first answer. */
  readonly firstToken: (generation: Generation) => void
  /** `tokens` tokens came `micros` after the ones before them. */
  readonly nextTokens: (micros: number, tokens: number) => void
  /** So many answers have been queued, for a tenant. */
  readonly started: (answers: number, tenant: string) => void
  /** A request was not taken. */
  readonly rejected: (reason: EngineError["reason"]) => void
  /** An answer has ended, whatever the reason; `last` says that no answer to its prompt is left. */
  readonly finished: (generation: Generation, reason: FinishReason, last: boolean) => void
}

export interface EngineLoad {
  readonly running: number
  readonly waiting: number
  readonly slabsUsed: number
  /** Since the engine started. */
  readonly preemptions: number
  /** Prompt tokens looked up in the prefix cache and found there, since the engine started. */
  readonly prefixQueries: number
  readonly prefixHits: number
}

export interface EngineMetricsOptions {
  /** Label `model_name`. */
  readonly modelName: string
  readonly layout: KvLayout
  readonly slabs: number
  /** One or more. */
  readonly ranks: ReadonlyArray<RankInfo>
  readonly maxModelLen: number
}

/** `context` says which registry. */
export const makeEngineMetrics = (options: EngineMetricsOptions, context: Context.Context<never>): EngineMetrics => {
  const { layout, slabs } = options
  const attributes = { model_name: options.modelName, engine: "0" }
  const gauge = (name: string, description: string, extra: Readonly<Record<string, string>> = {}) =>
    Metric.gauge(name, { description, attributes: { ...attributes, ...extra } })
  const counter = (name: string, description: string, extra: Readonly<Record<string, string>> = {}) => {
    const metric = Metric.counter(name, {
      description,
      attributes: { ...attributes, ...extra },
      incremental: true,
    })
    metric.updateUnsafe(0, context)
    return (value: number) => metric.updateUnsafe(value, context)
  }
  const histogram = (
    name: string,
    description: string,
    boundaries: ReadonlyArray<number>,
    extra: Readonly<Record<string, string>> = {},
  ) => {
    const metric = Metric.histogram(name, { description, attributes: { ...attributes, ...extra }, boundaries })
    return (value: number) => metric.updateUnsafe(value, context)
  }
  const seconds = (micros: number) => micros / 1_000_000

  const running = gauge("vllm:num_requests_running", "Requests that have a slot.")
  const waiting = gauge("vllm:num_requests_waiting", "Requests that wait for admission.")
  const waitingFor = gauge("vllm:num_requests_waiting_by_reason", "Requests that wait, by what they wait for.", {
    reason: "capacity",
  })
  const usage = gauge("vllm:kv_cache_usage_perc", "Share of memory slabs in use, 0 to 1.")
  gauge("vllm:cache_config_info", "Rows of a page and slabs of the pool, as labels.", {
    block_size: String(layout.pageSize),
    num_gpu_blocks: String(slabs),
  }).updateUnsafe(1, context)
  for (const [i, { device, weightBytes }] of options.ranks.entries()) {
    const rank = String(i)
    gauge("uniprefill:rank_info", "Tensor-parallel ranks and their devices, as labels.", {
      rank,
      device,
    }).updateUnsafe(1, context)
    if (weightBytes === null) continue
    gauge("uniprefill:rank_weight_bytes", "Weights that a rank holds.", { rank }).updateUnsafe(weightBytes, context)
  }
  const preempted = Metric.counter("vllm:num_preemptions_total", {
    description: "Times a request was preempted.",
    attributes,
    incremental: true,
  })

  const promptTokens = counter("vllm:prompt_tokens_total", "Prompt tokens of requests that reached their first token.")
  const cachedTokens = counter("vllm:prompt_tokens_cached_total", "Prompt tokens that were found in the prefix cache.")
  const computedTokens = counter("vllm:prompt_tokens_by_source_total", "Prompt tokens by where they came from.", {
    source: "local_compute",
  })
  const hitTokens = counter("vllm:prompt_tokens_by_source_total", "Prompt tokens by where they came from.", {
    source: "local_cache_hit",
  })
  const corrupted = counter("vllm:corrupted_requests_total", "Requests whose logits held a NaN or an infinity.")
  const startedAnswers = counter("uniprefill:requests_started_total", "Answers queued; each ends under one reason.")
  const rejections = Object.fromEntries(
    rejectionReasons.map((reason) => [
      reason,
      counter("vllm:admission_rejections_total", "Requests that were not taken, by reason.", { reason }),
    ]),
  )
  const generationTokens = counter("vllm:generation_tokens_total", "Output tokens sampled.")
  const counted = (name: string, description: string) =>
    Metric.counter(name, { description, attributes, incremental: true })
  const prefixQueries = counted("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.")
  const prefixHits = counted("vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache.")
  const success = Object.fromEntries(
    finishedReasons.map((reason) => [
      reason,
      counter("vllm:request_success_total", "Requests that ended, by reason.", { finished_reason: reason }),
    ]),
  ) as Record<FinishReason, (value: number) => void>

  const timeToFirst = histogram("vllm:time_to_first_token_seconds", "Arrival to first token.", ttftSeconds)
  const interToken = histogram("vllm:inter_token_latency_seconds", "Between one token and the next.", tokenSeconds)
  const perToken = histogram(
    "vllm:request_time_per_output_token_seconds",
    "Mean time between a request's tokens.",
    tokenSeconds,
  )
  const endToEnd = histogram("vllm:e2e_request_latency_seconds", "Arrival to the end.", requestSeconds)
  const queued = histogram("vllm:request_queue_time_seconds", "Arrival to the first step.", requestSeconds)
  const prefill = histogram("vllm:request_prefill_time_seconds", "First step to first token.", requestSeconds)
  const inference = histogram("vllm:request_inference_time_seconds", "First step to the end.", requestSeconds)
  const decode = histogram("vllm:request_decode_time_seconds", "First token to the last.", requestSeconds)
  const lengths = oneTwoFive(options.maxModelLen)
  const requestPrompt = histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", lengths)
  const requestOutput = histogram("vllm:request_generation_tokens", "Output tokens of a request.", lengths)
  const requestComputed = histogram(
    "vllm:request_prefill_kv_computed_tokens",
    "Prompt tokens of a request that were not found in the prefix cache.",
    lengths,
  )
  const requestMostOutput = histogram(
    "vllm:request_max_num_generation_tokens",
    "Output tokens of a request's longest answer.",
    lengths,
  )
  const paramsN = histogram("vllm:request_params_n", "Answers asked for.", [1, 2, 5, 10, 20])
  const paramsMaxTokens = histogram("vllm:request_params_max_tokens", "Output tokens asked for.", lengths)
  /** Of requests some of whose answers have ended. */
  const longest = new WeakMap<GenerateRequest, number>()
  const iteration = histogram("vllm:iteration_tokens_total", "Prompt and output tokens of a step.", iterationTokens)

  const keptRatio = layout.segments.slice(1).map((_, segment) =>
    histogram("uniprefill:kept_ratio", "Rows kept in a segment as a share of the prompt.", ratios, {
      segment: String(segment + 1),
    }),
  )
  const selectionTime = histogram(
    "uniprefill:selection_seconds",
    "Scoring and choosing what goes on.",
    selectionSeconds,
  )
  const fallbacks = counter("uniprefill:selection_fallbacks_total", "Selections that kept all: scores were not finite.")
  const loweredRequests = counter(
    "uniprefill:requests_lowered_total",
    "Requests served at the operator's lower p, because first tokens would have been late otherwise.",
  )
  const pagesSaved = counter("uniprefill:kv_pages_saved_total", "KV pages that dropped rows would have filled.")
  /** Full-attention tables of the segments after each one. */
  const tablesAfter = layout.segments.map(
    (_, segment) => layout.tables.filter((table) => table.kind === "full" && table.segment > segment).length,
  )

  /** Registers a series that is read, never updated. */
  const read = <State>(metric: Metric.Metric<never, State>, get: () => State) =>
    Metric.registerUnsafe(metric, context, { get, update: () => {}, modify: () => {} })
  const tenantSeries: TenantSeries = (tenant, queue) => {
    const one = (name: string, description: string, of: keyof TenantQueue) =>
      read(gauge(name, description, { tenant }), () => ({ value: queue()[of] }))
    const series = [
      one("uniprefill:tenant_requests_running", "Requests of a tenant that have a slot.", "running"),
      one("uniprefill:tenant_requests_waiting", "Requests of a tenant that wait for admission.", "waiting"),
      one("uniprefill:tenant_waiting_tokens", "Prompt tokens of a tenant's requests that wait.", "waitingTokens"),
    ]
    return { remove: () => series.forEach((registration) => registration.remove()) }
  }
  let byTenant: TenantMetrics | null = null

  return {
    step: (promptRows, tokens) => {
      if (tokens > 0) generationTokens(tokens)
      iteration(promptRows + tokens)
    },
    watch: (load, tenants) =>
      Effect.acquireRelease(
        Effect.sync(() => {
          byTenant = new TenantMetrics(tenants, tenantSeries)
          return [
            read(running, () => ({ value: load().running })),
            read(waiting, () => ({ value: load().waiting })),
            read(waitingFor, () => ({ value: load().waiting })),
            read(usage, () => ({ value: load().slabsUsed / slabs })),
            read(preempted, () => ({ count: load().preemptions, incremental: true })),
            read(prefixQueries, () => ({ count: load().prefixQueries, incremental: true })),
            read(prefixHits, () => ({ count: load().prefixHits, incremental: true })),
          ]
        }),
        (registrations) =>
          Effect.sync(() => {
            registrations.forEach((registration) => registration.remove())
            byTenant?.close()
          }),
      ),
    selected: (segment, before, kept, prompt, fallback) => {
      keptRatio[segment]!(kept / prompt)
      pagesSaved((pagesFor(before, layout.pageSize) - pagesFor(kept, layout.pageSize)) * tablesAfter[segment]!)
      if (fallback) fallbacks(1)
    },
    selectionTook: (micros) => selectionTime(seconds(micros)),
    started: (answers, tenant) => {
      startedAnswers(answers)
      byTenant?.entered(tenant)
    },
    rejected: (reason) => rejections[reason]?.(1),
    firstToken: ({ answer, scheduled, leader, firstTokenMicros, request }) => {
      if (answer > 0) return
      if (leader.account.isLowered) loweredRequests(1)
      promptTokens(request.prompt.length)
      cachedTokens(leader.account.cachedTokens)
      hitTokens(leader.account.cachedTokens)
      computedTokens(request.prompt.length - leader.account.cachedTokens)
      timeToFirst(seconds(firstTokenMicros - scheduled.arrivedMicros))
    },
    nextTokens: (micros, tokens) => {
      for (let i = 0; i < tokens; i++) interToken(seconds(micros / tokens))
    },
    finished: ({ answer, finished, outputs, request, corrupt }, reason, last) => {
      success[reason](1)
      if (corrupt) corrupted(1)
      const most = Math.max(longest.get(request) ?? 0, outputs.length)
      if (last) requestMostOutput(most)
      else longest.set(request, most)
      if (answer === 0) {
        paramsN(request.answers ?? 1)
        if (request.maxTokens !== undefined) paramsMaxTokens(request.maxTokens)
      }
      if (finished === null) return
      const { arrivedMicros, firstScheduledMicros, firstTokenMicros, finishedMicros } = finished.times
      endToEnd(seconds(finishedMicros - arrivedMicros))
      requestOutput(finished.completionTokens)
      if (answer === 0) {
        requestPrompt(finished.promptTokens)
        if (firstScheduledMicros >= 0) queued(seconds(firstScheduledMicros - arrivedMicros))
        if (firstTokenMicros >= 0) requestComputed(finished.promptTokens - finished.cachedTokens)
        if (firstTokenMicros >= 0) prefill(seconds(firstTokenMicros - firstScheduledMicros))
      }
      if (firstTokenMicros < 0) return
      inference(seconds(finishedMicros - firstScheduledMicros))
      decode(seconds(finishedMicros - firstTokenMicros))
      if (outputs.length > 1) perToken(seconds((finishedMicros - firstTokenMicros) / (outputs.length - 1)))
    },
  }
}

const finishedReasons: ReadonlyArray<FinishReason> = ["stop", "length", "abort", "error"]

const rejectionReasons: ReadonlyArray<EngineError["reason"]> = [
  "InvalidRequest",
  "TooLong",
  "QueueFull",
  "Draining",
  "Failed",
]

const ttftSeconds = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
]
const tokenSeconds = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80]
const requestSeconds = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680]
const iterationTokens = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]
const selectionSeconds = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
const ratios = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]

/** 1, 2, 5, 10, 20, 50, … up to `limit`. */
const oneTwoFive = (limit: number): ReadonlyArray<number> => {
  const bounds: Array<number> = []
  for (let scale = 1; ; scale *= 10) {
    for (const digit of [1, 2, 5]) {
      if (scale * digit > limit) return bounds
      bounds.push(scale * digit)
    }
  }
}
