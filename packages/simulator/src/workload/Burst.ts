import { Random } from "@uniprefill/units/Random"
import { lengthSampler, type LengthDistribution } from "./Synthetic.ts"
import { maxRequests, type Workload } from "./Workload.ts"

export interface Burst {
  readonly atMicros: number
  readonly requests: number
  readonly prompt: LengthDistribution
  readonly output: LengthDistribution
  readonly seed: number
  /** Names the draws. */
  readonly stream: string
}

/** The workload with more requests, all at one moment, as its last rows: up to that moment nothing is different. */
export const burst = (workload: Workload, { atMicros, requests, prompt, output, seed, stream }: Burst): Workload => {
  const count = workload.count + requests
  if (count > maxRequests)
    throw new RangeError(`${stream}.burst.requests: ${count} requests in all, at most ${maxRequests}`)
  const promptOf = lengthSampler(prompt, new Random(seed, `${stream} prompts`))
  const outputOf = lengthSampler(output, new Random(seed, `${stream} outputs`))
  const outputTokens = ints(workload.outputTokens, requests, outputOf)
  return {
    ...workload,
    count,
    assumptions: [...workload.assumptions, `${requests} requests more at ${atMicros / 1e6} s (seed ${seed})`],
    arrivalMicros: floats(workload.arrivalMicros, requests, atMicros),
    promptTokens: ints(workload.promptTokens, requests, promptOf),
    outputTokens,
    maxTokens: ints(workload.maxTokens, requests, (row) => outputTokens[row]!),
    priority: ints(workload.priority, requests, () => 0),
    tenant: ints(workload.tenant, requests, () => workload.tenants.length),
    tenants: [...workload.tenants, "burst"],
    ttftSloMicros: floats(workload.ttftSloMicros, requests, 0),
    after: ints(workload.after, requests, () => -1),
    thinkMicros: floats(workload.thinkMicros, requests, 0),
    blockStart: ints(workload.blockStart, requests, () => workload.blocks.length),
  }
}

const ints = (column: Int32Array, more: number, value: (row: number) => number): Int32Array => {
  const longer = new Int32Array(column.length + more)
  longer.set(column)
  for (let row = column.length; row < longer.length; row++) longer[row] = value(row)
  return longer
}

const floats = (column: Float64Array, more: number, value: number): Float64Array => {
  const longer = new Float64Array(column.length + more).fill(value)
  longer.set(column)
  return longer
}
