import type { Summary } from "@uniprefill/simulator/metrics/Summary"
import type { ScenarioChange } from "@uniprefill/simulator/scenario/Scenario"
import type { Checked, FieldSpec, Moment, Progress } from "../protocol/Protocol.ts"
import type { RunModel } from "../timeline/RunModel.ts"
import { type Draft, firstDraft } from "./Draft.ts"

export const views = ["scenario", "timeline", "compare", "report"] as const
export type View = (typeof views)[number]

export type RunStatus = "running" | "done" | "failed"

export interface Run {
  readonly id: number
  /** A for the first one, and so on. */
  readonly letter: string
  readonly title: string
  readonly scenario: Readonly<Record<string, unknown>>
  readonly files: Readonly<Record<string, Blob>>
  readonly status: RunStatus
  readonly progress: Progress | null
  readonly model: RunModel | null
  readonly error: string
  /** Where it parts from another run. */
  readonly parent: { readonly id: number; readonly step: number; readonly change: ScenarioChange } | null
  /** The recording that it replays; null for a simulation. */
  readonly recording: File | null
  /** What the command line found for the same scenario; empty where nothing is known. */
  readonly expectedHash: string
}

export interface Notice {
  readonly id: number
  readonly kind: "error" | "info"
  readonly text: string
  /** A draft that was put aside, to be brought back. */
  readonly aside: Draft | null
}

/** The step and the request that are looked at. */
export interface Selection {
  readonly step: number
  readonly request: number
}

export interface Sight {
  readonly run: number
  readonly selection: Selection
  readonly moment: Moment | null
  readonly error: string
  readonly tookMs: number
}

export interface SeedStudy {
  readonly base: number
  readonly other: number
  readonly wanted: number
  readonly pairs: ReadonlyArray<readonly [base: Summary, other: Summary]>
  readonly error: string
}

export interface StudioState {
  readonly view: View
  readonly fields: ReadonlyArray<FieldSpec>
  readonly draft: Draft
  readonly files: Readonly<Record<string, Blob>>
  readonly checked: Checked | null
  readonly isChecking: boolean
  readonly runs: ReadonlyArray<Run>
  readonly current: number
  /** The run that the current one is held against. */
  readonly other: number
  readonly selection: Selection
  readonly sight: Sight | null
  readonly seeds: SeedStudy | null
  readonly notices: ReadonlyArray<Notice>
  /** What stopped the page as a whole. */
  readonly failure: string
}

export const none: Selection = { step: -1, request: -1 }

/** As the page begins. */
export const firstState: StudioState = {
  view: "scenario",
  fields: [],
  draft: firstDraft,
  files: {},
  checked: null,
  isChecking: true,
  runs: [],
  current: -1,
  other: -1,
  selection: none,
  sight: null,
  seeds: null,
  notices: [],
  failure: "",
}
