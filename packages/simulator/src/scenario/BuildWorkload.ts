import { closedLoop, openLoop, sessions } from "../workload/Generate.ts"
import { parseLengths } from "../workload/LengthText.ts"
import { scaled } from "../workload/Scaling.ts"
import { serveGenWorkload } from "../workload/ServeGen.ts"
import type { ArrivalProcess } from "../workload/Synthetic.ts"
import { readTrace, type TraceFormat } from "../workload/TraceFormat.ts"
import { maxRequests, type Workload } from "../workload/Workload.ts"
import type { ReadText } from "./Build.ts"
import type { FullScenario } from "./Scenario.ts"
import { ScenarioError } from "./ScenarioFields.ts"

const defaultRequests = 1000

/** The requests that a scenario offers: read or generated, then scaled. */
export const buildWorkload = ({ workload: fields, seed }: FullScenario, read: ReadText): Workload => {
  if (fields.skip + fields.requests > maxRequests) {
    throw new ScenarioError(
      `workload.requests ${fields.requests} after a skip of ${fields.skip}: at most ${maxRequests} together`,
    )
  }
  return scaled(fields.trace === "" ? generate(fields, seed) : load(fields, seed, read), {
    skip: fields.skip,
    limit: fields.requests,
    repeat: fields.repeat,
    rate: fields.rate,
    promptLength: fields.promptScale,
    outputLength: fields.outputScale,
    maxPromptTokens: fields.maxPromptTokens,
    maxTokens: fields.maxTokens,
    sharedPrefixes: fields.sharedPrefixes,
  })
}

type Fields = FullScenario["workload"]

const load = (fields: Fields, seed: number, read: ReadText): Workload => {
  const text = read(fields.trace)
  if (fields.traceFormat === "servegen") {
    const requests = fields.requests > 0 ? fields.skip + fields.requests : 1_000_000
    return serveGenWorkload(fields.trace, text, {
      seed,
      fromSecond: fields.fromSecond,
      seconds: fields.seconds,
      requests,
    })
  }
  return readTrace(fields.trace, text, {
    format: fields.traceFormat as TraceFormat,
    seed,
    spread: fields.spreadTicks,
    blockTokens: fields.blockSize,
  })
}

const generate = (fields: Fields, seed: number): Workload => {
  const options = {
    seed,
    requests: fields.skip + (fields.requests > 0 ? fields.requests : defaultRequests),
    prompt: parseLengths("workload.promptTokens", String(fields.promptTokens)),
    output: parseLengths("workload.outputTokens", String(fields.outputTokens)),
  }
  const thinkMicros = Math.round(fields.thinkMs * 1000)
  const { ratePerSecond, clients, turns } = fields
  switch (fields.arrivals) {
    case "closed":
      return closedLoop({ ...options, clients, thinkMicros })
    case "sessions":
      return sessions({ ...options, arrivals: { process: "poisson", ratePerSecond }, turns, thinkMicros })
    case "gamma":
      return openLoop({ ...options, arrivals: { process: "gamma", ratePerSecond, cv: fields.cv } })
    case "weibull":
      return openLoop({ ...options, arrivals: { process: "weibull", ratePerSecond, shape: fields.shape } })
    default:
      return openLoop({
        ...options,
        arrivals: { process: fields.arrivals as ArrivalProcess["process"], ratePerSecond } as ArrivalProcess,
      })
  }
}
