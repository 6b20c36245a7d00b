import type { DropLayer } from "@uniprefill/model/DropSchedule"
import { percent } from "./AccuracyReport.ts"
import type { Check } from "./CalibrationCheck.ts"
import type { Calibrated, Tried } from "./CalibrationRun.ts"
import { type Budget, paretoFront, scheduleKey, type Verdict } from "./CalibrationVerdict.ts"

/** What `uniprefill calibrate` found; with --json, as it is. */
export interface CalibrationReport {
  readonly format: "uniprefill-calibrate"
  readonly version: 1
  readonly model: string
  readonly fingerprint: string
  readonly device: string
  readonly tokens: number
  readonly prompts: number
  readonly seed: number
  readonly budget: Budget
  readonly denseRight: number
  /** Prompts that it is checked on, and how many of those that were asked dense has right. */
  readonly freshPrompts: number
  readonly freshDenseRight: number
  /** Predicted time to the first token of a dense prompt, ms. */
  readonly denseMs: number
  /** Each layer alone, p descending. */
  readonly singles: ReadonlyArray<TriedReport>
  readonly trials: ReadonlyArray<TriedReport>
  /** Those of both that no other beats both in divergence and in time. */
  readonly front: ReadonlyArray<string>
  /** What was chosen, on the fresh prompts, in that order. */
  readonly checks: ReadonlyArray<CheckReport>
  readonly chosen: TriedReport | null
  /** Whether what was chosen passed the check. */
  readonly isChecked: boolean
  readonly unmeasured: ReadonlyArray<number>
  /** Whether time was over before everything was measured. */
  readonly isCutShort: boolean
}

export interface TriedReport extends Verdict {
  readonly layers: ReadonlyArray<DropLayer>
  readonly predictedMs: number
}

export interface CheckReport extends Verdict {
  readonly layers: ReadonlyArray<DropLayer>
  readonly outcome: Check["outcome"]
  /** Taken out for it, with every lower p. */
  readonly blamed: DropLayer | null
}

export const calibrationReport = (
  about: Omit<
    CalibrationReport,
    | "format"
    | "version"
    | "singles"
    | "trials"
    | "front"
    | "checks"
    | "chosen"
    | "isChecked"
    | "unmeasured"
    | "isCutShort"
  >,
  { singles, trials, checks, chosen, unmeasured, isCutShort }: Calibrated,
): CalibrationReport => {
  const told = ({ layers, verdict, cost }: Tried): TriedReport => ({ layers, ...verdict, predictedMs: cost / 1000 })
  const points = [...singles, ...trials].map((one) => ({ ...one, answerKl: one.verdict.answerKl }))
  return {
    format: "uniprefill-calibrate",
    version: 1,
    ...about,
    singles: singles.map(told),
    trials: trials.map(told),
    front: paretoFront(points).map(({ layers }) => scheduleKey(layers)),
    checks: checks.map(({ layers, verdict, outcome, blamed }) => ({ layers, ...verdict, outcome, blamed })),
    chosen: chosen === null ? null : told(chosen),
    isChecked: checks.at(-1)?.outcome === "passed",
    unmeasured,
    isCutShort,
  }
}

const namesOf = (layers: ReadonlyArray<DropLayer>) =>
  layers.map(({ layer, p }) => `layer ${layer} at p ${p}`).join(", ")

/** Cells under headings; those of `texts` on the left of their column, the others on the right. */
const table = (rows: ReadonlyArray<ReadonlyArray<string>>, texts: ReadonlyArray<number>): ReadonlyArray<string> => {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  return rows.map((row) =>
    row
      .map((cell, c) => (texts.includes(c) ? cell.padEnd(widths[c]!) : cell.padStart(widths[c]!)))
      .join("  ")
      .trimEnd(),
  )
}

const verdictHead = ["drops at", "prompts", "answer KL", "lost", "won", "rows kept"]

const verdictCells = ({ layers, ...verdict }: Verdict & { readonly layers: ReadonlyArray<DropLayer> }) => [
  scheduleKey(layers),
  String(verdict.prompts),
  verdict.answerKl.toPrecision(2),
  String(verdict.lost),
  String(verdict.won),
  verdict.kept.map(percent).join(" "),
]

const outcomeText = ({ outcome, blamed }: CheckReport): string => {
  if (outcome === "passed") return "passed"
  if (outcome === "unfinished") return "not through: time was over"
  return blamed === null
    ? "failed; time was over before it was known which layer does it"
    : `failed: ${namesOf([blamed])} or lower is taken out`
}

/** What the check says, if there was one. */
const checkText = ({ checks, freshPrompts, freshDenseRight }: CalibrationReport): ReadonlyArray<string> =>
  checks.length === 0
    ? []
    : [
        `What was chosen, on ${freshPrompts} fresh prompts (${freshDenseRight} right dense):`,
        "",
        ...table(
          [[...verdictHead, ""], ...checks.map((check) => [...verdictCells(check), outcomeText(check)])],
          [0, 5, 6],
        ),
        "",
      ]

const chosenText = ({ chosen, checks, isChecked, isCutShort, freshPrompts, denseMs }: CalibrationReport): string => {
  if (chosen === null) {
    if (isCutShort)
      return "Time was over before a layer was found that is safe to drop at: the schedule drops nothing, and the model is served dense."
    return checks.length === 0
      ? "No layer is safe to drop at within this budget: the schedule drops nothing, and the model is served dense."
      : "Nothing that was chosen passed the check: the schedule drops nothing, and the model is served dense."
  }
  const what = `Chosen: ${namesOf(chosen.layers)}; rows kept ${chosen.kept.map(percent).join(", ")}; predicted time to the first token ${percent(chosen.predictedMs / denseMs)} of dense.`
  if (isChecked) return `${what} It passed the check on fresh prompts.`
  const why = freshPrompts === 0 ? "--check-prompts is 0" : "time was over"
  return `${what}\nIT WAS NOT CHECKED on prompts that it was not chosen by (${why}): what loses answers rarely may have been chosen by luck.`
}

/** With so many, one that loses a tenth of the answers passes in 4% of the cases. */
const fewPrompts = 30

/** The report as text. */
export const calibrationText = (report: CalibrationReport): string => {
  const { model, device, tokens, prompts, budget, denseRight, denseMs, singles, trials, front } = report
  const rows: Array<ReadonlyArray<string>> = [
    [...verdictHead, "predicted TTFT", ""],
    ...[...singles, ...trials].map((one) => [
      ...verdictCells(one),
      percent(one.predictedMs / denseMs),
      [one.isSafe ? "safe" : "", front.includes(scheduleKey(one.layers)) ? "front" : ""]
        .filter((word) => word !== "")
        .join(", "),
    ]),
  ]
  return [
    `${model} on ${device}: ${prompts} prompts of ${tokens} tokens, ${denseRight} right dense`,
    `safe: where dense is right, answers diverge by at most ${budget.answerKl} nats, and at most ${percent(budget.loss)} are lost`,
    "",
    ...table(rows, [0, 5, 7]),
    "",
    ...checkText(report),
    ...report.unmeasured.map((layer) => `layer ${layer} was not measured: time was over`),
    chosenText(report),
    ...(prompts + report.freshPrompts < fewPrompts
      ? [
          `With ${prompts + report.freshPrompts} prompts a layer that loses one answer in ten may well pass: take ${fewPrompts} or more.`,
        ]
      : []),
    ...(denseRight * 2 < prompts
      ? [
          "Dense is right in fewer than half of these prompts: another --tasks, or prompts of one's own, would say more.",
        ]
      : []),
    ...(report.isCutShort
      ? ["What was measured is kept: without the schedule and with more --minutes the same command goes on there."]
      : []),
    "",
  ].join("\n")
}
