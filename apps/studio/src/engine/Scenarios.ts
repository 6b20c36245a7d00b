import { buildExperiment, type Experiment } from "@uniprefill/simulator/scenario/Build"
import { describe } from "@uniprefill/simulator/output/Describe"
import { withDefaults } from "@uniprefill/simulator/scenario/Scenario"
import { checkScenario, scenarioFields } from "@uniprefill/simulator/scenario/ScenarioFields"
import { driverConfig } from "@uniprefill/simulator/Setup"
import type { Workload } from "@uniprefill/simulator/workload/Workload"
import type { Checked, FieldFault, Preview } from "../protocol/Protocol.ts"
import { readerOf } from "./Inputs.ts"

type Files = Readonly<Record<string, Blob>>

/** A scenario that cannot run: everything that is wrong with it, each at its field where that is known. */
export class ScenarioFaults extends Error {
  readonly faults: ReadonlyArray<FieldFault>

  constructor(faults: ReadonlyArray<FieldFault>) {
    super(faults.map(({ path, detail }) => (path === "" ? detail : `${path}: ${detail}`)).join("\n"))
    this.name = "ScenarioFaults"
    this.faults = faults
  }
}

/** Errors that whoever made the scenario can mend: their message says all. */
const usersErrors = new Set([
  "ScenarioFaults",
  "ScenarioError",
  "TraceError",
  "SetupError",
  "CalibrationError",
  "ModelError",
  "PolicyFault",
  "RecordingError",
  "RangeError",
])

export const isUsersError = (error: unknown): error is Error => error instanceof Error && usersErrors.has(error.name)

/** Fails with ScenarioFaults, or what building fails with. */
export const experimentOf = async (value: unknown, files: Files): Promise<Experiment> => {
  const { scenario, faults } = checkScenario(value)
  if (scenario === null) throw new ScenarioFaults(faults)
  return buildExperiment(withDefaults(scenario), await readerOf(files))
}

/** What is wrong with a scenario, or what it would run. */
export const check = async (value: unknown, files: Files): Promise<Checked> => {
  try {
    const experiment = await experimentOf(value, files)
    return { faults: [], preview: previewOf(experiment) }
  } catch (error) {
    if (error instanceof ScenarioFaults) return { faults: error.faults, preview: null }
    if (isUsersError(error)) return { faults: [placed(error.message)], preview: null }
    throw error
  }
}

/** What building says begins with the field that it is about, or with the file that a field names. */
const placed = (message: string): FieldFault => {
  const [, path = "", detail = message] = /^([\w.]+):? ([^]*)$/.exec(message) ?? []
  const isField = scenarioFields.some((field) => field.path === path) || path.startsWith("changes.")
  return isField ? { path, detail } : { path: "", detail: message }
}

const arrivalParts = 64

const lengthEnds = [256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144, Number.MAX_SAFE_INTEGER]

const previewOf = (experiment: Experiment): Preview => {
  const { setup, workload } = experiment
  const { layout, slabs } = driverConfig(setup)
  const span = workload.arrivalMicros.reduce((most, time) => Math.max(most, time), 0)
  const perPage = layout.tables.reduce((sum, table) => sum + (table.kind === "carry" ? 0 : table.slabsPerPage), 0)
  return {
    about: describe(experiment),
    requests: workload.count,
    spanSeconds: span / 1e6,
    promptTokens: sum(workload.promptTokens),
    outputTokens: sum(workload.outputTokens),
    arrivals: arrivalsOf(workload, span),
    lengths: lengthsOf(workload),
    slabs,
    kvTokens: Math.floor((slabs * setup.replicas) / Math.max(1, perPage)) * layout.pageSize,
  }
}

const sum = (values: Int32Array): number => values.reduce((total, value) => total + value, 0)

const arrivalsOf = ({ arrivalMicros }: Workload, span: number): Array<number> => {
  const parts = new Array<number>(arrivalParts).fill(0)
  for (const time of arrivalMicros)
    parts[Math.min(arrivalParts - 1, Math.floor((time / Math.max(1, span)) * arrivalParts))]!++
  return parts
}

const lengthsOf = ({ promptTokens }: Workload): Preview["lengths"] => {
  const counts = lengthEnds.map(() => 0)
  for (const tokens of promptTokens) counts[lengthEnds.findIndex((end) => tokens < end)]!++
  const used = counts.map((count, i) => ({ to: lengthEnds[i]!, count }))
  const first = used.findIndex(({ count }) => count > 0)
  return used.slice(first, used.findLastIndex(({ count }) => count > 0) + 1)
}
