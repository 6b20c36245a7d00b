import type { Provenance as Grounds } from "@uniprefill/simulator/output/Provenance"
import type { Summary } from "@uniprefill/simulator/metrics/Summary"
import type { RunReport } from "@uniprefill/simulator/output/RunReport"
import type { Moment } from "@uniprefill/simulator/timetravel/TimeMachine"
import type { RequestColumns } from "@uniprefill/simulator/timetravel/RequestColumns"
import type { Timeline } from "@uniprefill/simulator/timetravel/Timeline"
import { Schema } from "effect"

/**
 * What crosses between the page and its workers. The page sends a command with a number; any number of `progress` replies and
 * one `done` or `failed` answer it.
 */

const Files = Schema.Record(Schema.String, Schema.instanceOf(Blob))

export const Command = Schema.Union([
  /** The fields of a scenario, for a form. */
  Schema.Struct({ do: Schema.Literal("describeFields") }),
  /** What a dropped file is, checked as far as it can be alone. */
  Schema.Struct({ do: Schema.Literal("open"), name: Schema.String, file: Schema.instanceOf(Blob) }),
  /** What is wrong with a scenario, or what it would run. */
  Schema.Struct({ do: Schema.Literal("check"), scenario: Schema.Unknown, files: Files }),
  /** Simulate, with everything that looking back needs. */
  Schema.Struct({ do: Schema.Literal("run"), scenario: Schema.Unknown, files: Files }),
  /** Replay a recording, likewise. */
  Schema.Struct({ do: Schema.Literal("replay"), name: Schema.String, file: Schema.instanceOf(Blob) }),
  /** Simulate for the figures alone. */
  Schema.Struct({ do: Schema.Literal("measure"), scenario: Schema.Unknown, files: Files }),
  /** A step of the run that this worker holds. */
  Schema.Struct({ do: Schema.Literal("look"), step: Schema.Int, request: Schema.Int }),
  /** The same run as a file of ui.perfetto.dev. */
  Schema.Struct({ do: Schema.Literal("perfetto") }),
])
export type Command = typeof Command.Type

/** `stop` ends the run in progress early; its command is answered with what is known. */
export const Request = Schema.Union([
  Schema.Struct({ id: Schema.Int, command: Command }),
  Schema.Struct({ stop: Schema.Literal(true) }),
])
export type Request = typeof Request.Type

/** How far a run has come. */
const Progress = Schema.Struct({
  done: Schema.Number,
  total: Schema.Number,
  steps: Schema.Number,
  nowMicros: Schema.Number,
  waiting: Schema.Number,
  running: Schema.Number,
})
export type Progress = typeof Progress.Type

export const Reply = Schema.Union([
  /** The worker holds the lock that bears its name, until it ends. */
  Schema.Struct({ tag: Schema.Literal("alive") }),
  Schema.Struct({ id: Schema.Int, tag: Schema.Literal("progress"), progress: Progress }),
  Schema.Struct({ id: Schema.Int, tag: Schema.Literal("done"), value: Schema.Unknown }),
  Schema.Struct({
    id: Schema.Int,
    tag: Schema.Literal("failed"),
    fault: Schema.Struct({ name: Schema.String, message: Schema.String, isUsers: Schema.Boolean }),
  }),
])
export type Reply = typeof Reply.Type

/** Why a command failed. */
export interface Fault {
  readonly name: string
  readonly message: string
  /** Something that whoever made the scenario can mend; else it is a defect of the program. */
  readonly isUsers: boolean
}

/** A field of a scenario as a form shows it. */
export interface FieldSpec {
  readonly path: string
  readonly section: string
  readonly label: string
  readonly unit: string
  readonly description: string
  readonly control: FieldControl
  readonly defaultValue: unknown
}

export type FieldControl =
  | {
      readonly kind: "number"
      readonly integer: boolean
      readonly minimum: number | null
      readonly maximum: number | null
    }
  | { readonly kind: "choice"; readonly values: ReadonlyArray<string | number> }
  | { readonly kind: "flag" }
  /** Text, a number or numbers; `known` are names that there are. */
  | { readonly kind: "text"; readonly known: ReadonlyArray<string> }

/** What a dropped file turned out to be. */
export type Opened =
  | { readonly kind: "scenario"; readonly scenario: unknown; readonly note: string }
  /** A file of `uniprefill-sim run --studio`. */
  | {
      readonly kind: "studio"
      readonly scenario: unknown
      readonly files: Readonly<Record<string, Blob>>
      readonly hash: string
      readonly note: string
    }
  | { readonly kind: "recording"; readonly note: string }
  /** A file that a scenario names: the fields to set so that it does. */
  | { readonly kind: "input"; readonly fields: Readonly<Record<string, unknown>>; readonly note: string }

export interface FieldFault {
  readonly path: string
  readonly detail: string
}

export interface Checked {
  readonly faults: ReadonlyArray<FieldFault>
  readonly preview: Preview | null
}

/** What a scenario would run. */
export interface Preview {
  readonly about: ReadonlyArray<string>
  readonly requests: number
  readonly spanSeconds: number
  readonly promptTokens: number
  readonly outputTokens: number
  /** Requests in each of equal parts of the span. */
  readonly arrivals: ReadonlyArray<number>
  /** Requests by prompt length: upper ends, and counts. */
  readonly lengths: ReadonlyArray<{ readonly to: number; readonly count: number }>
  readonly slabs: number
  /** Prompt tokens that fit in the memory of all replicas, dense. */
  readonly kvTokens: number
}

/** Where the figures come from: shown wherever they are. */
export interface Provenance {
  readonly device: string
  /** What step times are: those of a recording are the run's own. */
  readonly rates: Grounds["rates"] | "recorded"
  readonly ratesNote: string
  /** All-reduces between ranks; null for one rank. */
  readonly link: string | null
  readonly keep: string
  readonly accuracy: string
  /** Of requests served at a lower p so that first tokens come in time; null where none may be. */
  readonly lowered: Grounds["lowered"]
  readonly assumptions: ReadonlyArray<string>
}

export interface RunMeta {
  readonly origin: "simulated" | "recorded"
  readonly replicas: number
  readonly devices: number
  /** Layers of each segment. */
  readonly segmentLayers: ReadonlyArray<number>
  /** What the columns of the timeline's memory are, in their order. */
  readonly memoryNames: ReadonlyArray<string>
  /** Of a replica. */
  readonly slabs: number
  readonly stepBudgetMicros: number
  readonly idleStepBudgetMicros: number
  readonly tokenBudget: number | null
  readonly policy: string
  readonly block: number
  readonly seed: number
}

export interface RunResult {
  readonly name: string
  /** The plan hash: equal to the command line's for the same scenario. */
  readonly hash: string
  readonly complete: boolean
  /** Why it ended early; empty when it did not. */
  readonly ended: string
  readonly about: ReadonlyArray<string>
  readonly reproduction: string
  readonly provenance: Provenance
  readonly meta: RunMeta
  /** Null for a recording. */
  readonly summary: Summary | null
  readonly report: RunReport | null
  /** `[ms, share of gaps at or below]`. */
  readonly itlCdf: ReadonlyArray<readonly [number, number]>
  /** As `uniprefill-sim run --json` writes it. */
  readonly json: unknown
  readonly timeline: Timeline
  readonly requests: RequestColumns
  /** What the run took, ms of this machine's time, and what taking checkpoints took of that. */
  readonly tookMs: number
  readonly checkpointsMs: number
  /** ms since 1970. */
  readonly endedAt: number
}

export interface Measured {
  readonly summary: Summary
  /** Requests that arrive in a second, from the first arrival to the last. */
  readonly offeredPerSecond: number
}

export type { Moment }
