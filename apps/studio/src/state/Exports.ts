import { statusNames } from "../layout/StatusNames.ts"
import type { RunResult } from "../protocol/Protocol.ts"

/** Every request of a run, a line each. Times are ms from the start; empty where it did not happen. */
export const requestsCsv = ({ requests, timeline }: RunResult): string => {
  const ms = (micros: number) => (micros < 0 ? "" : (micros / 1000).toFixed(3))
  const items = new Uint32Array(requests.count)
  for (const request of timeline.items.request) items[request]!++
  const lines = [
    "request,replica,status,arrival_ms,first_scheduled_ms,first_token_ms,last_token_ms,prompt_tokens,output_tokens,kept_rows,cached_tokens,preemptions,prefill_chunks",
  ]
  for (let row = 0; row < requests.count; row++) {
    lines.push(
      [
        row + 1,
        requests.replica[row]!,
        statusNames[requests.status[row]!]!.replaceAll(" ", "_"),
        ms(requests.arrival[row]!),
        ms(requests.firstScheduled[row]!),
        ms(requests.firstToken[row]!),
        ms(requests.lastToken[row]!),
        requests.promptTokens[row]!,
        requests.outputs[row]!,
        requests.keptRows[row]! < 0 ? "" : requests.keptRows[row]!,
        requests.cachedTokens[row]!,
        requests.preemptions[row]!,
        items[row]!,
      ].join(","),
    )
  }
  return `${lines.join("\n")}\n`
}

/** Every step of a run, a line each. */
export const stepsCsv = ({ timeline }: RunResult): string => {
  const { steps } = timeline
  const segments = steps.rows.map((_, s) => `segment_${s}_rows`)
  const lines = [
    [
      "replica",
      "step",
      "start_us",
      "us",
      "predicted_us",
      "decode_rows",
      "items",
      "selections",
      "failed",
      "waiting",
      "running",
      "slabs_in_use",
      ...segments,
    ].join(","),
  ]
  for (let i = 0; i < steps.count; i++) {
    const fixed = [
      steps.replica,
      steps.stepId,
      steps.start,
      steps.micros,
      steps.planned,
      steps.decodeRows,
      steps.items,
      steps.selections,
    ]
    lines.push(
      [
        ...fixed.map((column) => column[i]!),
        steps.flags[i]! & 1,
        steps.waiting[i]!,
        steps.running[i]!,
        steps.used[i]!,
        ...steps.rows.map((rows) => rows[i]!),
      ].join(","),
    )
  }
  return `${lines.join("\n")}\n`
}

/** Hands a file to whoever uses the page. */
export const save = (name: string, content: Blob | string, type = "text/plain"): void => {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }))
  const anchor = document.createElement("a")
  anchor.href = url
  anchor.download = name
  anchor.click()
  window.setTimeout(() => URL.revokeObjectURL(url), 10_000)
}

/** A file name from a title. */
export const fileName = (title: string, ending: string): string =>
  `${
    title
      .toLowerCase()
      .replaceAll(/[^a-z0-9]+/g, "-")
      .replaceAll(/^-|-$/g, "") || "run"
  }.${ending}`
