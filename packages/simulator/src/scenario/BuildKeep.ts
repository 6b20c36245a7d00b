import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { constantKeep, paperKeep, type KeepProfile } from "../model/KeepProfile.ts"
import type { Workload } from "../workload/Workload.ts"
import type { ReadText } from "./Build.ts"
import { decodeKeepFile, isKeepByP } from "./KeepFile.ts"
import { decodeRecordedSelections } from "./RecordingSelections.ts"
import type { FullScenario } from "./Scenario.ts"
import { parseJson, ScenarioError } from "./ScenarioFields.ts"

/** What selections keep, with its source, and how far the workload goes beyond what it was made from. */
export const buildKeep = (
  keep: string | number | ReadonlyArray<number>,
  schedule: DropSchedule,
  workload: Workload,
  read: ReadText,
): KeepProfile => {
  const profile = profileOf(keep, schedule, read)
  const said = profile.source === "assumed" ? "" : lengthsOutside(profile, schedule, workload)
  return said === "" ? profile : { ...profile, note: `${profile.note}; ${said}` }
}

/** What selections keep at the p that late prompts are lowered to; undefined where none is, or nothing is dropped. */
export const buildSloKeep = (
  { keep, sloKeep, engine }: FullScenario,
  schedule: DropSchedule,
  workload: Workload,
  read: ReadText,
): KeepProfile | undefined => {
  const { sloP } = engine
  if (sloP === 0 || schedule.dropLayers.length === 0) return undefined
  if (schedule.dropLayers.every(({ p }) => p <= sloP)) {
    const own = Math.max(...schedule.dropLayers.map(({ p }) => p))
    throw new ScenarioError(`engine.sloP: the schedule's p is ${own} at most, so ${sloP} lowers nothing`)
  }
  const dropLayers = schedule.dropLayers.map(({ layer, p }) => ({ layer, p: Math.min(p, sloP) }))
  const lowered = { ...schedule, dropLayers }
  if (sloKeep !== "measured") return buildKeep(sloKeep, lowered, workload, read)
  if (typeof keep !== "string" || !keep.endsWith(".json") || !isKeepByP(parseJson(keep, read(keep)))) {
    throw new ScenarioError(
      `sloKeep: engine.sloP is ${sloP}, and keep says nothing of that p: give the shares kept at it, or a .keep.json by p`,
    )
  }
  return buildKeep(keep, lowered, workload, read)
}

const profileOf = (
  keep: string | number | ReadonlyArray<number>,
  schedule: DropSchedule,
  read: ReadText,
): KeepProfile => {
  if (keep === "paper") return paperKeep
  if (typeof keep !== "string") return constantShares(typeof keep === "number" ? [keep] : keep)
  if (/\.recording\.jsonl(\.gz)?$/.test(keep)) return recordedKeep(keep, read(keep), schedule)
  if (!keep.endsWith(".json")) {
    throw new ScenarioError(
      `keep: ${JSON.stringify(keep)} is none of paper, shares like 0.8,0.6, a .keep.json file and a .recording.jsonl.gz`,
    )
  }
  return decodeKeepFile(keep, parseJson(keep, read(keep)), schedule)
}

const constantShares = (keep: ReadonlyArray<number>): KeepProfile => {
  for (const [i, share] of keep.entries()) {
    if (share > (keep[i - 1] ?? 1))
      throw new ScenarioError(`keep: share ${share} after ${keep[i - 1]}; kept sets are nested, so shares never grow`)
  }
  if (keep.length === 0) throw new ScenarioError("keep: an empty list of shares")
  return constantKeep(keep)
}

const recordedKeep = (file: string, text: string, schedule: DropSchedule): KeepProfile => {
  const recorded = decodeRecordedSelections(file, text)
  const drops = schedule.dropLayers.length
  if (drops > 0 && recorded.drops !== drops) {
    throw new ScenarioError(
      `keep: ${file} has selections of ${recorded.drops} drop layers; the schedule has ${drops}, and what one keeps says nothing of the other`,
    )
  }
  return {
    source: "recorded",
    note: `selections of ${recorded.prompts} prompts of ${recorded.shortest} to ${recorded.longest} tokens in ${file}; other lengths scaled by block position`,
    accuracy: "unknown",
    points: recorded.points,
    recorded,
  }
}

const lengthsOutside = ({ points }: KeepProfile, schedule: DropSchedule, { promptTokens }: Workload): string => {
  const from = points[0]!.tokens
  const to = points.at(-1)!.tokens
  let dropping = 0
  let outside = 0
  for (const tokens of promptTokens) {
    if (tokens < schedule.minPromptTokens) continue
    dropping++
    if (tokens < from || tokens > to) outside++
  }
  return outside === 0
    ? ""
    : `OUTSIDE its lengths of ${from} to ${to} tokens: ${outside} of ${dropping} prompts that drop`
}
