import { Random } from "@uniprefill/units/Random"
import { gapSampler, lengthSampler, type ArrivalProcess, type LengthDistribution } from "./Synthetic.ts"
import { workloadOf, type Workload, type WorkloadRow } from "./Workload.ts"

export interface SyntheticWorkload {
  readonly seed: number
  readonly requests: number
  readonly prompt: LengthDistribution
  readonly output: LengthDistribution
}

/** Open loop: requests come at their times, whatever has become of those before. */
export const openLoop = (options: SyntheticWorkload & { readonly arrivals: ArrivalProcess }): Workload => {
  const gap = gapSampler(options.arrivals, new Random(options.seed, "arrivals"))
  const prompt = lengthSampler(options.prompt, new Random(options.seed, "prompts"))
  const output = lengthSampler(options.output, new Random(options.seed, "outputs"))
  let time = 0
  const rows = Array.from({ length: options.requests }, (): WorkloadRow => {
    time += gap()
    return { arrivalMicros: Math.round(time), promptTokens: prompt(), outputTokens: output() }
  })
  const { process, ratePerSecond } = options.arrivals
  return workloadOf(
    "synthetic",
    [`${process} arrivals at ${ratePerSecond}/s (seed ${options.seed})`, "no shared prefixes"],
    0,
    rows,
  )
}

/** Closed loop: each of `clients` submits its next request `thinkMicros` after its last one has ended. */
export const closedLoop = (
  options: SyntheticWorkload & { readonly clients: number; readonly thinkMicros: number },
): Workload => {
  const prompt = lengthSampler(options.prompt, new Random(options.seed, "prompts"))
  const output = lengthSampler(options.output, new Random(options.seed, "outputs"))
  const { clients, thinkMicros } = options
  const rows = Array.from({ length: options.requests }, (_, i): WorkloadRow => {
    const row = { promptTokens: prompt(), outputTokens: output(), tenant: `client-${i % clients}` }
    return i < clients ? { ...row, arrivalMicros: 0 } : { ...row, arrivalMicros: 0, after: i - clients, thinkMicros }
  })
  return workloadOf(
    "closed loop",
    [
      `${clients} clients, each ${thinkMicros / 1000} ms after its last answer (seed ${options.seed})`,
      "no shared prefixes",
    ],
    0,
    rows,
  )
}

/**
 * Sessions: each of `clients` holds conversations of `turns` turns, whose prompt is everything said before and a new piece;
 * what was said before is a shared prefix.
 */
export const sessions = (
  options: SyntheticWorkload & {
    readonly arrivals: ArrivalProcess
    readonly turns: number
    readonly thinkMicros: number
  },
): Workload => {
  const gap = gapSampler(options.arrivals, new Random(options.seed, "arrivals"))
  const prompt = lengthSampler(options.prompt, new Random(options.seed, "prompts"))
  const output = lengthSampler(options.output, new Random(options.seed, "outputs"))
  const blockTokens = 128
  const rows: Array<WorkloadRow> = []
  let start = 0
  let nextBlock = 0
  while (rows.length < options.requests) {
    start += gap()
    let context = 0
    const blocks: Array<number> = []
    for (let turn = 0; turn < options.turns && rows.length < options.requests; turn++) {
      const promptTokens = context + prompt()
      while ((blocks.length + 1) * blockTokens <= promptTokens) blocks.push(nextBlock++)
      const outputTokens = output()
      const link = turn === 0 ? {} : { after: rows.length - 1, thinkMicros: options.thinkMicros }
      rows.push({ arrivalMicros: Math.round(start), promptTokens, outputTokens, blocks: [...blocks], ...link })
      context = promptTokens + outputTokens
    }
  }
  return workloadOf(
    "sessions",
    [
      `sessions of ${options.turns} turns, ${options.thinkMicros / 1000} ms of thinking, ${options.arrivals.process} starts at ${options.arrivals.ratePerSecond}/s (seed ${options.seed})`,
      "prefix blocks of 128 tokens",
    ],
    blockTokens,
    rows,
  )
}
