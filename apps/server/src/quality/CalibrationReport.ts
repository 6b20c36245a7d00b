import type { DropLayer } from "@uniprefill/model/DropSchedule"
import { percent } from "./AccuracyReport.ts"
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
  /** Predicted time to the first token of a dense prompt, ms. */
  readonly denseMs: number
  /** Each layer alone, p descending. */
  readonly singles: ReadonlyArray<TriedReport>
  readonly trials: ReadonlyArray<TriedReport>
  /** Those of both that no other beats both in divergence and in time. */
  readonly front: ReadonlyArray<string>
  readonly chosen: TriedReport | null
  readonly unmeasured: ReadonlyArray<number>
}

export interface TriedReport extends Verdict {
  readonly layers: ReadonlyArray<DropLayer>
  readonly predictedMs: number
}

export const calibrationReport = (
  about: Pick<
    CalibrationReport,
    "model" | "fingerprint" | "device" | "tokens" | "prompts" | "seed" | "budget" | "denseRight" | "denseMs"
  >,
  { singles, trials, chosen, unmeasured }: Calibrated,
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
    chosen: chosen === null ? null : told(chosen),
    unmeasured,
  }
}

/** With so many, one that loses a tenth of the answers passes in 4% of the cases. */
const fewPrompts = 30

/** The report as text. */
export const calibrationText = (report: CalibrationReport): string => {
  const { model, device, tokens, prompts, budget, denseRight, denseMs, singles, trials, front, chosen } = report
  const rows: Array<ReadonlyArray<string>> = [
    ["drops at", "prompts", "answer KL", "lost", "won", "rows kept", "predicted TTFT", ""],
    ...[...singles, ...trials].map((one) => [
      scheduleKey(one.layers),
      String(one.prompts),
      one.answerKl.toPrecision(2),
      String(one.lost),
      String(one.won),
      one.kept.map(percent).join(" "),
      percent(one.predictedMs / denseMs),
      [one.isSafe ? "safe" : "", front.includes(scheduleKey(one.layers)) ? "front" : ""]
        .filter((word) => word !== "")
        .join(", "),
    ]),
  ]
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  const isText = new Set([0, 5, 7])
  const lines = rows.map((row) =>
    row
      .map((cell, c) => (isText.has(c) ? cell.padEnd(widths[c]!) : cell.padStart(widths[c]!)))
      .join("  ")
      .trimEnd(),
  )
  return [
    `${model} on ${device}: ${prompts} prompts of ${tokens} tokens, ${denseRight} right dense`,
    `safe: answers diverge by at most ${budget.answerKl} nats, and at most ${percent(budget.loss)} are lost`,
    "",
    ...lines,
    "",
    ...report.unmeasured.map((layer) => `layer ${layer} was not measured: time was over`),
    chosen === null
      ? "No layer is safe to drop at within this budget: the schedule drops nothing, and the model is served dense."
      : `Chosen: ${chosen.layers.map(({ layer, p }) => `layer ${layer} at p ${p}`).join(", ")}; rows kept ${chosen.kept.map(percent).join(", ")}; predicted time to the first token ${percent(chosen.predictedMs / denseMs)} of dense.`,
    ...(prompts < fewPrompts
      ? [`With ${prompts} prompts a layer that loses one answer in ten may well pass: take ${fewPrompts} or more.`]
      : []),
    ...(denseRight * 2 < prompts
      ? [
          "Dense is right in fewer than half of these prompts: another --tasks, or prompts of one's own, would say more.",
        ]
      : []),
    "",
  ].join("\n")
}
