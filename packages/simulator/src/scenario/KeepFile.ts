import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { keepAtP, type KeepMeasurement } from "../model/KeepByP.ts"
import type { KeepPoint, KeepProfile } from "../model/KeepProfile.ts"
import { ScenarioError } from "./ScenarioFields.ts"

/** Accuracy under p at every drop layer. */
interface AccuracyAtP {
  readonly p: number
  readonly text: string
}

/**
 * A `*.keep.json`: {"format": "uniprefill-keep", "version": 1, "source": "measured" | "recorded" | "assumed", "note": "…",
 * "accuracy": "…", "points": [{"tokens": 8192, "kept": [0.8, 0.6]}]}.
 *
 * As a calibration by p every point has a `p` too, points ascend by tokens and then by p, and `accuracy` is a list of
 * {"p": 0.9, "text": "…"}: the schedule's own p decides which shares hold, and what is known of its accuracy. Fails with
 * ScenarioError naming file and field.
 */
export const decodeKeepFile = (file: string, value: unknown, schedule: DropSchedule): KeepProfile => {
  const fail = (detail: string): never => {
    throw new ScenarioError(`${file}: ${detail}`)
  }
  const { format, version, source, note, accuracy, points } = (value ?? {}) as Record<string, unknown>
  if (format !== "uniprefill-keep" || version !== 1)
    fail(`format and version are ${JSON.stringify([format, version])}, expected ["uniprefill-keep", 1]`)
  if (source !== "measured" && source !== "recorded" && source !== "assumed") {
    return fail(`source is ${JSON.stringify(source)}, expected measured, recorded or assumed`)
  }
  if (typeof note !== "string") return fail("note is missing: say where the shares come from")
  if (!Array.isArray(points) || points.length === 0) return fail("points is not a list of {tokens, kept}")
  const isByP = isKeepByP(value)
  checkPoints(points as ReadonlyArray<Record<string, unknown> | null>, isByP, fail)
  if (!isByP) {
    if (accuracy !== undefined && typeof accuracy !== "string") return fail("accuracy is not text")
    return { source, note, accuracy: accuracy ?? "unknown", points: points as ReadonlyArray<KeepPoint> }
  }
  const drops = schedule.dropLayers.length
  for (const [i, { kept }] of (points as ReadonlyArray<KeepMeasurement>).entries()) {
    if (kept.length !== drops && drops > 0)
      fail(`points.${i}.kept has ${kept.length} shares; the schedule has ${drops} drop layers`)
  }
  const known = checkAccuracies(accuracy, fail)
  const at = keepAtP(points as ReadonlyArray<KeepMeasurement>, schedule)
  const said = at.outside.length === 0 ? "" : `; OUTSIDE the calibrated range: ${at.outside.join(", ")}`
  return { source, note: `${note}${said}`, accuracy: accuracyUnder(schedule, known), points: at.points }
}

/** Whether a keep file measures shares at several p. */
export const isKeepByP = (value: unknown): boolean => {
  const { points } = (value ?? {}) as { readonly points?: unknown }
  return Array.isArray(points) && (points[0] as { readonly p?: unknown } | null)?.p !== undefined
}

type Fail = (detail: string) => never

const checkPoints = (points: ReadonlyArray<Record<string, unknown> | null>, isByP: boolean, fail: Fail): void => {
  let before = { tokens: 0, p: 0 }
  for (const [i, point] of points.entries()) {
    const tokens = point?.["tokens"]
    const p = point?.["p"]
    if (isByP !== (p !== undefined)) fail(`points.${i}.p: either every point has a p or none`)
    if (isByP && !(typeof p === "number" && p >= 0 && p <= 1))
      fail(`points.${i}.p is ${JSON.stringify(p)}, not in 0 to 1`)
    const ascends =
      typeof tokens === "number" &&
      (tokens > before.tokens || (isByP && tokens === before.tokens && (p as number) > before.p))
    if (!ascends) {
      fail(
        isByP && tokens === before.tokens
          ? `points.${i}.p is ${JSON.stringify(p)}, expected a number above ${before.p}`
          : `points.${i}.tokens is ${JSON.stringify(tokens)}, expected a number above ${before.tokens}`,
      )
    }
    before = { tokens, p: isByP ? (p as number) : 0 }
    const kept = point?.["kept"]
    if (!Array.isArray(kept) || kept.length === 0) return fail(`points.${i}.kept is not a list of shares`)
    for (const [drop, share] of kept.entries()) {
      if (!(typeof share === "number" && share >= 0 && share <= (kept[drop - 1] ?? 1))) {
        fail(`points.${i}.kept.${drop} is ${JSON.stringify(share)}; shares are from 0 to 1 and never grow`)
      }
    }
  }
}

const checkAccuracies = (accuracy: unknown, fail: Fail): ReadonlyArray<AccuracyAtP> => {
  if (accuracy === undefined) return []
  if (!Array.isArray(accuracy)) return fail("accuracy is not a list of {p, text}, as it is where points have a p")
  for (const [i, one] of (accuracy as ReadonlyArray<Record<string, unknown> | null>).entries()) {
    if (typeof one?.["p"] !== "number" || typeof one["text"] !== "string") fail(`accuracy.${i} is not {p, text}`)
  }
  return accuracy as ReadonlyArray<AccuracyAtP>
}

/** What is known at exactly the schedule's p; nothing is read off between two. */
const accuracyUnder = ({ dropLayers }: DropSchedule, known: ReadonlyArray<AccuracyAtP>): string => {
  const p = dropLayers[0]?.p
  const isUniform = dropLayers.every((drop) => drop.p === p)
  return (isUniform ? known.find((one) => one.p === p)?.text : undefined) ?? "unknown"
}
