import { type LinkLibrary, linkLibraries } from "@uniprefill/cost-model/Calibration"
import { policyNames } from "@uniprefill/scheduler/policies/PolicyByName"
import { servingDefaults } from "@uniprefill/scheduler/ServingDefaults"
import { Schema } from "effect"
import { routerKinds } from "../Router.ts"
import { longestTokens } from "../workload/TraceRows.ts"
import { traceFormats } from "../workload/TraceFormat.ts"

/**
 * A simulation as a file: `*.scenario.yaml` or JSON. Every field has a default, and a flag of its own on the command line.
 * Field names carry their unit.
 */

const above = (minimum: number) => Schema.Finite.check(Schema.isGreaterThan(minimum))
const atLeast = (minimum: number) => Schema.Finite.check(Schema.isGreaterThanOrEqualTo(minimum))
const count = (minimum: number) => Schema.Int.check(Schema.isGreaterThanOrEqualTo(minimum))
const share = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }))

/** Text, or one number for all. */
const lengths = Schema.Union([Schema.String, count(1)])

const field = <S extends Schema.Top>(schema: S, description: string) =>
  Schema.optionalKey(schema.annotate({ description }) as unknown as S)

export const WorkloadFields = Schema.Struct({
  trace: field(
    Schema.String,
    "Trace file, or mooncake-conversation-slice, which ships with the simulator; none: synthetic requests",
  ),
  traceFormat: field(
    Schema.Literals(["auto", "servegen", ...traceFormats]),
    "Format of the trace; auto looks at its first line",
  ),
  spreadTicks: field(Schema.Boolean, "Spread arrivals that were logged on coarse ticks inside their tick"),
  skip: field(count(0), "Rows left out at the trace's start"),
  requests: field(count(0), "Requests taken from the trace (0: all), or generated"),
  repeat: field(count(1), "The trace this often, one after the other"),
  rate: field(above(0), "Factor on the rate of arrivals"),
  promptScale: field(above(0), "Factor on prompt lengths"),
  outputScale: field(above(0), "Factor on output lengths"),
  maxPromptTokens: field(count(0), "Longer prompts are cut to this (0: none)"),
  maxTokens: field(
    Schema.Union([
      Schema.Literal("true-length"),
      Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: longestTokens })),
    ]),
    "max_tokens that requests state: true-length, or a number of tokens",
  ),
  sharedPrefixes: field(Schema.Boolean, "Use the trace's shared prefix blocks"),
  blockSize: field(count(0), "Tokens of a prefix block of the trace (0: what the format says)"),
  fromSecond: field(atLeast(0), "ServeGen: first second of the recorded days"),
  seconds: field(above(0), "ServeGen: seconds sampled"),
  arrivals: field(
    Schema.Literals(["poisson", "gamma", "weibull", "constant", "closed", "sessions"]),
    "Synthetic: arrival process; closed: clients that wait for their answer; sessions: conversations",
  ),
  ratePerSecond: field(above(0), "Synthetic: requests (or sessions) a second"),
  cv: field(above(0), "Synthetic gamma: coefficient of variation of the gaps (1 is Poisson)"),
  shape: field(above(0), "Synthetic weibull: shape of the gaps"),
  clients: field(count(1), "Synthetic closed loop: clients"),
  turns: field(count(1), "Synthetic sessions: turns of a conversation"),
  thinkMs: field(atLeast(0), "Closed loop and sessions: pause between an answer and the next request"),
  promptTokens: field(lengths, "Synthetic prompt lengths: 8192, uniform:100-4000, lognormal:MEDIAN,SIGMA,MOST"),
  outputTokens: field(lengths, "Synthetic output lengths, likewise"),
})

export const EngineFields = Schema.Struct({
  pageSize: field(count(64), "Rows of a K/V page, a multiple of 64"),
  slots: field(count(1), "Requests that may run at a time"),
  snapshots: field(count(0), "Copies of recurrent states for prefixes to be gone on from, beside those of the slots"),
  resumeEvery: field(
    count(64),
    "Rows between the places where a prefix can be gone on from (windows, recurrent states)",
  ),
  maxRowsPerStep: field(count(65), "Prefill and decode rows of a step, at least slots + 64"),
  stepBudgetMs: field(above(0), "Predicted time a step may take while requests decode"),
  idleStepBudgetMs: field(above(0), "The same while none does"),
  prefillFloor: field(
    Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 0.9 })),
    "Share of every step's time that decodes cannot take from prompts",
  ),
  sloP: field(share, "p of prompts where first tokens would be late at the schedule's own (0: none is lowered)"),
  maxPrefillWaitMs: field(atLeast(0), "A prompt that waits longer gets a smallest chunk whatever the budget"),
  protectAfter: field(count(1), "The oldest prompt, passed over or preempted this often, is served first"),
  protectAfterMs: field(above(0), "So is one that has been the oldest for so long"),
  maxPauseMs: field(
    atLeast(0),
    "A preempted answer that has waited longer takes the memory of others that have run for a quarter of that; 0: never",
  ),
  headroomTokens: field(count(0), "Output tokens of each decode that memory is kept for when a prompt is admitted"),
  stepsInFlight: field(Schema.Literals([1, 2]), "2: the next step is planned while one runs"),
  maxModelLen: field(count(2), "Longest prompt and output"),
  maxWaiting: field(count(0), "Requests that may wait before others are refused"),
  maxWaitingTokens: field(count(1), "Prompt tokens that may wait"),
  tenantShare: field(
    above(0),
    "How many times what is left of the queue a tenant may fill, and under `priority` its requests of one priority what is left of that",
  ),
  memoryUtilization: field(share, "Share of the device's memory used"),
  slabs: field(count(0), "Slabs of the K/V pool (0: what the memory holds)"),
  efficiency: field(above(0), "Factor on every rate of the device"),
  maxNumBatchedTokens: field(count(65), "Policy token-budget: rows of a step"),
  maxNumSeqs: field(count(1), "Policy token-budget: requests that run at a time"),
  prefixCaching: field(Schema.Boolean, "Prompts share the K/V and carry pages of equal prefixes"),
})

export const HostFields = Schema.Struct({
  stepMicros: field(count(0), "Host time of a step, hidden where a second one is in flight"),
  launchMicros: field(atLeast(0), "Launches of a step, on the device's time"),
  itemMicros: field(atLeast(0), "Added by each prefill item"),
  layerMicros: field(atLeast(0), "What a layer takes at least: launches, where they are not recorded in a graph"),
  readBackMicros: field(count(0), "A selection that the host reads while the step waits"),
  admissionMicros: field(atLeast(0), "From arrival to submission"),
  tokenizeMicrosPerToken: field(atLeast(0), "Tokenising, for each prompt token, before submission"),
  link: field(Schema.Literals(linkLibraries), "What all-reduces between devices are done with"),
})

export const FaultFields = Schema.Struct({
  slowSteps: field(share, "Share of steps that take longer"),
  slowFactor: field(atLeast(1), "How much longer"),
  failedSteps: field(share, "Share of steps that fail, with everything that had a slot"),
  recoveryMs: field(atLeast(0), "Time until a replica is back after a failed step"),
  cancelled: field(share, "Share of requests whose client gives up"),
  cancelWithinMs: field(atLeast(0), "Latest time of giving up, after the arrival"),
})

export const SloFields = Schema.Struct({
  ttftMs: field(atLeast(0), "Target for the time to first token (0: none)"),
  tpotMs: field(atLeast(0), "Target for the time per output token (0: none)"),
})

const keep = Schema.Union([Schema.String, share, Schema.Array(share)])

/** What is different from a moment of the run on. */
export const ChangeFields = Schema.Struct({
  atMicros: count(0).annotate({ description: "When, in µs of the run" }),
  policy: field(Schema.String, "Order in which prompts are served from then on"),
  stepBudgetMs: field(above(0), "Predicted time a step may take while requests decode"),
  idleStepBudgetMs: field(above(0), "The same while none does"),
  maxPrefillWaitMs: field(atLeast(0), "A prompt that waits longer gets a smallest chunk whatever the budget"),
  keep: field(keep, "What selections keep from then on"),
  abort: field(Schema.Array(count(1)), "Requests whose clients give up, by their number from 1"),
  burst: field(
    Schema.Struct({
      requests: count(1).annotate({ description: "Requests that arrive at that moment, besides the workload's" }),
      promptTokens: field(lengths, "Their prompt lengths (as the workload's)"),
      outputTokens: field(lengths, "Their output lengths"),
    }),
    "Requests besides the workload's",
  ),
  slow: field(
    Schema.Struct({
      replica: field(count(0), "The replica whose device it is, from 0; none: all"),
      factor: above(0).annotate({ description: "How much longer its steps take" }),
      seconds: above(0).annotate({ description: "For how long" }),
    }),
    "A device that takes longer for a while",
  ),
})

export type ScenarioChange = typeof ChangeFields.Type

export const Scenario = Schema.Struct({
  format: Schema.optionalKey(Schema.Literal("uniprefill-scenario")),
  version: Schema.optionalKey(Schema.Literal(1)),
  name: field(Schema.String, "Name of the scenario, for reports"),
  model: field(
    Schema.String,
    "llama-3.1-8b, llama-3.1-70b, gemma-3-12b, qwen3-next-80b-a3b, or a decoder's config.json",
  ),
  device: field(Schema.String, "h200, h100, h20, a100, b200, mi300x, l40s, rtx-4090, rtx-pro-6000"),
  calibration: field(Schema.String, "File of measured rates, in place of the device's own"),
  tensorParallel: field(count(1), "Devices of a replica"),
  replicas: field(count(1), "Replicas behind the router"),
  router: field(Schema.Literals(routerKinds), "How requests are spread over replicas"),
  schedule: field(Schema.String, "Drop schedule: preset (the model's own), off, or a uniprefill.json"),
  keep: field(
    keep,
    "What selections keep: paper (its mean shares), shares like 0.8,0.6, a *.keep.json, or a *.recording.jsonl.gz",
  ),
  sloKeep: field(
    keep,
    "What selections keep under engine.sloP: measured (by the file of keep, at that p), shares, or a file as for keep",
  ),
  policy: field(
    Schema.String,
    `Order in which prompts are served: ${policyNames.join(", ")}, or a module that exports a policy`,
  ),
  seed: field(count(0), "Seeds every draw"),
  timeoutMs: field(atLeast(0), "A request that has not ended by then is given up (0: never)"),
  untilSeconds: field(atLeast(0), "End of the run, whatever is unfinished (0: when all is done)"),
  warmupRequests: field(count(0), "First requests, served but left out of latencies"),
  gpuHourPrice: field(atLeast(0), "Price of a device for an hour"),
  workload: Schema.optionalKey(WorkloadFields),
  engine: Schema.optionalKey(EngineFields),
  host: Schema.optionalKey(HostFields),
  faults: Schema.optionalKey(FaultFields),
  slo: Schema.optionalKey(SloFields),
  changes: Schema.optionalKey(Schema.Array(ChangeFields)),
  sweep: Schema.optionalKey(
    Schema.Struct({
      over: Schema.Record(Schema.String, Schema.Array(Schema.Unknown)),
      seeds: Schema.optionalKey(count(1)),
    }),
  ),
  variants: Schema.optionalKey(Schema.Record(Schema.String, Schema.Record(Schema.String, Schema.Unknown))),
})

export type Scenario = typeof Scenario.Type

/** What holds where a scenario says nothing. */
export const scenarioDefaults = {
  name: "unnamed",
  model: "llama-3.1-8b",
  device: "h200",
  calibration: "",
  tensorParallel: 1,
  replicas: 1,
  router: "least-loaded",
  schedule: "preset",
  keep: "paper" as string | number | ReadonlyArray<number>,
  sloKeep: "measured" as string | number | ReadonlyArray<number>,
  policy: "fcfs",
  seed: 1,
  timeoutMs: 0,
  untilSeconds: 0,
  warmupRequests: 0,
  gpuHourPrice: 0,
  workload: {
    trace: "",
    traceFormat: "auto",
    spreadTicks: true,
    skip: 0,
    requests: 0,
    repeat: 1,
    rate: 1,
    promptScale: 1,
    outputScale: 1,
    maxPromptTokens: 0,
    maxTokens: "true-length" as "true-length" | number,
    sharedPrefixes: true,
    blockSize: 0,
    fromSecond: 0,
    seconds: 600,
    arrivals: "poisson",
    ratePerSecond: 1,
    cv: 1,
    shape: 1,
    clients: 8,
    turns: 4,
    thinkMs: 10_000,
    promptTokens: "lognormal:8192,0.8,131072" as string | number,
    outputTokens: "lognormal:256,0.6,2048" as string | number,
  },
  engine: {
    pageSize: 128,
    slots: 256,
    snapshots: 32,
    resumeEvery: servingDefaults.resumeEvery,
    maxRowsPerStep: 8192,
    stepBudgetMs: servingDefaults.stepBudgetMicros.cuda / 1000,
    idleStepBudgetMs: servingDefaults.idleStepBudgetMicros.cuda / 1000,
    prefillFloor: servingDefaults.prefillFloor as number,
    sloP: 0,
    maxPrefillWaitMs: servingDefaults.maxPrefillWaitMicros / 1000,
    protectAfter: servingDefaults.protectAfter as number,
    protectAfterMs: servingDefaults.protectAfterMicros / 1000,
    maxPauseMs: servingDefaults.maxPauseMicros / 1000,
    headroomTokens: servingDefaults.headroomTokens as number,
    stepsInFlight: servingDefaults.maxStepsInFlight as number,
    maxModelLen: 131_072,
    maxWaiting: servingDefaults.maxWaiting as number,
    maxWaitingTokens: servingDefaults.maxWaitingTokens as number,
    tenantShare: servingDefaults.tenantShare as number,
    memoryUtilization: 0.9,
    slabs: 0,
    efficiency: 1,
    maxNumBatchedTokens: 2048,
    maxNumSeqs: 128,
    prefixCaching: true,
  },
  host: {
    stepMicros: 200,
    launchMicros: 500,
    itemMicros: 20,
    layerMicros: 0,
    readBackMicros: 40,
    admissionMicros: 500,
    tokenizeMicrosPerToken: 2,
    link: "nccl" as LinkLibrary,
  },
  faults: { slowSteps: 0, slowFactor: 4, failedSteps: 0, recoveryMs: 10_000, cancelled: 0, cancelWithinMs: 10_000 },
  slo: { ttftMs: 2000, tpotMs: 60 },
  changes: [] as ReadonlyArray<ScenarioChange>,
}

/** A scenario with every field filled in. */
export type FullScenario = typeof scenarioDefaults

const sections = ["workload", "engine", "host", "faults", "slo"] as const

export const withDefaults = (scenario: Scenario): FullScenario => {
  const { format: _format, version: _version, sweep: _sweep, variants: _variants, ...given } = scenario
  const full = { ...scenarioDefaults, ...given } as Record<string, unknown>
  for (const section of sections) full[section] = { ...scenarioDefaults[section], ...given[section] }
  return full as unknown as FullScenario
}
