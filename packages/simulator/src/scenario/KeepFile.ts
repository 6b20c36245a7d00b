import type { KeepPoint, KeepProfile } from "../model/KeepProfile.ts"
import { ScenarioError } from "./ScenarioFields.ts"

/**
 * A `*.keep.json`: {"format": "uniprefill-keep", "version": 1, "source": "measured" | "recorded" | "assumed", "note": "…",
 * "accuracy": "…", "points": [{"tokens": 8192, "kept": [0.8, 0.6]}]}. Fails with ScenarioError naming file and field.
 */
export const decodeKeepFile = (file: string, value: unknown): KeepProfile => {
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
  if (accuracy !== undefined && typeof accuracy !== "string") return fail("accuracy is not text")
  if (!Array.isArray(points) || points.length === 0) return fail("points is not a list of {tokens, kept}")
  let before = 0
  for (const [i, point] of (points as ReadonlyArray<Record<string, unknown> | null>).entries()) {
    const tokens = point?.["tokens"]
    if (typeof tokens !== "number" || !(tokens > before))
      fail(`points.${i}.tokens is ${JSON.stringify(tokens)}, expected a number above ${before}`)
    before = tokens as number
    const kept = point?.["kept"]
    if (!Array.isArray(kept) || kept.length === 0) return fail(`points.${i}.kept is not a list of shares`)
    for (const [drop, share] of kept.entries()) {
      if (!(typeof share === "number" && share >= 0 && share <= (kept[drop - 1] ?? 1))) {
        fail(`points.${i}.kept.${drop} is ${JSON.stringify(share)}; shares are from 0 to 1 and never grow`)
      }
    }
  }
  return { source, note, accuracy: accuracy ?? "unknown", points: points as ReadonlyArray<KeepPoint> }
}
