import { decodeRecording } from "@uniprefill/recording/RecordingCodec"
import { decodeCalibration } from "@uniprefill/cost-model/Calibration"
import { decodeShape } from "@uniprefill/simulator/model/PublishedConfig"
import { checkScenario, ScenarioError } from "@uniprefill/simulator/scenario/ScenarioFields"
import { readTrace } from "@uniprefill/simulator/workload/TraceFormat"
import { Schema } from "effect"
import { parse } from "yaml"
import type { Opened } from "../protocol/Protocol.ts"
import { textOf } from "./Inputs.ts"
import { ScenarioFaults } from "./Scenarios.ts"

/** A file of `uniprefill-sim run --studio`: a scenario with every file that it names. */
const StudioFile = Schema.Struct({
  format: Schema.Literal("uniprefill-studio"),
  version: Schema.Literal(1),
  scenario: Schema.Unknown,
  files: Schema.Record(Schema.String, Schema.String),
  hash: Schema.String,
})

/**
 * What a dropped file is: by what it says of itself, else by its name. Checked as far as it can be alone. Fails with an error
 * that names the file, and the line or field.
 */
export const open = async (name: string, file: Blob): Promise<Opened> => {
  const text = await textOf(name, file)
  const first = text.slice(0, 65_536).trimStart()
  if (first === "") throw new ScenarioError(`${name}: the file is empty`)
  if (/^\{[^\n]*"format": ?"uniprefill-recording"/.test(first)) return openRecording(name, text)
  if (/\.(ya?ml)$/.test(name))
    return openValue(
      name,
      parsed(name, () => parse(text) as unknown),
    )
  if (/\.(jsonl|csv)(\.gz)?$/.test(name) || !first.startsWith("{")) return openTrace(name, text)
  return openValue(
    name,
    parsed(name, () => JSON.parse(text) as unknown),
  )
}

const parsed = (name: string, read: () => unknown): unknown => {
  try {
    return read()
  } catch (error) {
    throw new ScenarioError(`${name}: ${(error as Error).message.split("\n")[0]}`)
  }
}

const openRecording = (name: string, text: string): Opened => {
  try {
    const { header, events } = decodeRecording(text)
    const plans = events.reduce((count, event) => count + (event.e === "plan" ? 1 : 0), 0)
    return { kind: "recording", note: `${plans} steps of ${header.code}, policy ${header.policy.name}` }
  } catch (error) {
    throw named(name, error)
  }
}

const openTrace = (name: string, text: string): Opened => {
  const trace = readTrace(name, text, { format: "auto", seed: 1, spread: true, blockTokens: 0 })
  const seconds = trace.arrivalMicros.at(-1)! / 1e6
  return {
    kind: "input",
    fields: { "workload.trace": name, "workload.traceFormat": "auto" },
    note: `a trace of ${trace.count} requests in ${seconds.toFixed(0)} s`,
  }
}

const openValue = (name: string, value: unknown): Opened => {
  const fields = (typeof value === "object" && value !== null ? value : {}) as Readonly<Record<string, unknown>>
  switch (fields["format"]) {
    case "uniprefill-studio":
      return openStudio(name, value)
    case "uniprefill-keep":
      return { kind: "input", fields: { keep: name }, note: "kept shares" }
    case "uniprefill-calibration":
      decodeCalibration(value)
      return { kind: "input", fields: { calibration: name }, note: "measured rates of a device" }
    case "uniprefill-schedule":
      return { kind: "input", fields: { schedule: name }, note: "a drop schedule" }
  }
  if (fields["hidden_size"] !== undefined || fields["text_config"] !== undefined) {
    decodeShape(name, value)
    return { kind: "input", fields: { model: name }, note: "a model's config.json" }
  }
  const { scenario, faults } = checkScenario(value)
  if (scenario === null)
    throw new ScenarioFaults(faults.map((fault) => ({ ...fault, detail: `${name}: ${fault.detail}` })))
  return { kind: "scenario", scenario, note: scenario.name ?? "a scenario" }
}

const openStudio = (name: string, value: unknown): Opened => {
  const { version } = value as Readonly<Record<string, unknown>>
  if (version !== 1)
    throw new ScenarioError(`${name}: version ${JSON.stringify(version)} of a studio file; this page reads version 1`)
  const decoded = Schema.decodeUnknownExit(StudioFile)(value)
  if (decoded._tag === "Failure") throw new ScenarioError(`${name}: not a whole studio file: ${String(decoded.cause)}`)
  const { scenario, files, hash } = decoded.value
  const { faults } = checkScenario(scenario)
  if (faults.length > 0)
    throw new ScenarioFaults(faults.map((fault) => ({ ...fault, detail: `${name}: ${fault.detail}` })))
  return {
    kind: "studio",
    scenario,
    files: Object.fromEntries(Object.entries(files).map(([file, text]) => [file, new Blob([text])])),
    hash,
    note: `a run of uniprefill-sim, plan hash ${hash}`,
  }
}

const named = (name: string, error: unknown): Error => {
  const renamed = new Error(`${name} ${(error as Error).message}`)
  renamed.name = (error as Error).name
  return renamed
}
