import { countLabel, durationLabel, timeLabel } from "../layout/Ticks.ts"
import { statusNames } from "../layout/StatusNames.ts"
import type { Hit } from "./Hit.ts"
import type { RunModel } from "./RunModel.ts"

/** A step in a few lines. */
export const stepLines = ({ result }: RunModel, step: number): ReadonlyArray<string> => {
  const { steps } = result.timeline
  const prefill = steps.rows.flatMap((rows, segment) =>
    rows[step]! > 0 ? [`${countLabel(rows[step]!)} of segment ${segment}`] : [],
  )
  return [
    `Step ${steps.stepId[step]!}${result.meta.replicas > 1 ? ` of replica ${steps.replica[step]!}` : ""}${(steps.flags[step]! & 1) === 1 ? ", FAILED" : ""}`,
    `${durationLabel(steps.micros[step]!)} at ${timeLabel(steps.start[step]!, 1000)}`,
    `${steps.decodeRows[step]!} decode rows`,
    prefill.length === 0 ? "no prefill" : `prefill rows: ${prefill.join(", ")}`,
    ...(steps.selections[step]! > 0 ? [`${steps.selections[step]!} selections`] : []),
    `${steps.waiting[step]!} waiting, ${steps.running[step]!} running`,
  ]
}

/** A request in a few lines. */
export const requestLines = ({ result }: RunModel, request: number): ReadonlyArray<string> => {
  const { requests } = result
  const arrival = requests.arrival[request]!
  const first = requests.firstToken[request]!
  return [
    `Request ${request + 1}, ${statusLabel(requests.status[request]!)}`,
    `${countLabel(requests.promptTokens[request]!)} prompt tokens, ${countLabel(requests.outputs[request]!)} output`,
    first < 0 ? "no first token" : `first token after ${durationLabel(first - arrival)}`,
    ...(requests.preemptions[request]! > 0 ? [`preempted ${requests.preemptions[request]!} times`] : []),
  ]
}

export const statusLabel = (status: number): string => statusNames[status] ?? "unknown"

export const hitLines = (model: RunModel, hit: Hit): ReadonlyArray<string> => {
  if (hit.kind === "step") return stepLines(model, hit.step)
  if (hit.kind === "request") return requestLines(model, hit.request)
  return []
}
