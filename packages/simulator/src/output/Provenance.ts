import { calibrationOf, linkOf } from "@uniprefill/cost-model/DeviceSpec"
import type { Summary } from "../metrics/Summary.ts"
import type { Experiment } from "../scenario/Build.ts"

/** What the figures of a run rest on. Plain data; every output shows it, for each run on its own. */
export interface Provenance {
  readonly device: string
  /** `calibrated` is said only where most steps lie inside of what was measured. */
  readonly rates: "calibrated" | "extrapolated" | "fitted" | "assumed"
  readonly ratesNote: string
  /** Share of steps predicted outside of what was measured. */
  readonly outsideShare: number
  /** All-reduces between ranks; null for one rank. */
  readonly link: string | null
  /** Null for a run that drops nothing. */
  readonly kept: { readonly source: string; readonly note: string; readonly accuracy: string } | null
  /** Of prompts whose p was lowered so that first tokens come in time; null where none may be. */
  readonly lowered: LoweredGrounds | null
}

export interface LoweredGrounds {
  readonly p: number
  /** Share of the requests completed. */
  readonly share: number
  readonly source: string
  readonly note: string
  readonly accuracy: string
}

export const provenanceOf = ({ scenario, setup }: Experiment, summary: Summary): Provenance => {
  const { device, keep, sloKeep, schedule, tensorParallel, host, engine } = setup
  const { outsideShare } = summary
  const calibration = calibrationOf(device)
  const link = linkOf(device, host.link, tensorParallel)
  const { fittedTo } = calibration
  const elsewhere =
    fittedTo !== undefined && (fittedTo.model !== scenario.model || fittedTo.tensorParallel !== tensorParallel)
      ? `; fitted to ${fittedTo.model} at tensor parallel ${fittedTo.tensorParallel}, which this is not`
      : ""
  const share = stepsOutside(outsideShare, outsideShare)
  const rates =
    calibration.source === "assumed"
      ? ("assumed" as const)
      : outsideShare > 0.5
        ? ("extrapolated" as const)
        : calibration.source === "fitted"
          ? ("fitted" as const)
          : ("calibrated" as const)
  const notes = {
    assumed: `UNCALIBRATED: ${calibration.note}`,
    extrapolated: `EXTRAPOLATED: ${share}`,
    fitted: `fitted to recorded runs, ${share}`,
    calibrated: `calibrated, ${share}`,
  }
  return {
    device: device.label,
    rates,
    ratesNote: `${notes[rates]}${elsewhere}`,
    outsideShare,
    link: link === null ? null : `${link.library} between ${link.ranks} ranks, ${link.source}`,
    kept: schedule.dropLayers.length === 0 ? null : { source: keep.source, note: keep.note, accuracy: keep.accuracy },
    lowered:
      sloKeep === undefined
        ? null
        : {
            p: engine.sloP,
            share: summary.completed === 0 ? 0 : summary.lowered / summary.completed,
            source: sloKeep.source,
            note: sloKeep.note,
            accuracy: sloKeep.accuracy,
          },
  }
}

/** A line for each part. */
export const provenanceLines = (
  { device, ratesNote, link, kept, lowered }: Provenance,
  loweredShare = percent(lowered?.share ?? 0),
): ReadonlyArray<string> => [
  `rates      ${device}: ${ratesNote}`,
  ...(link === null ? [] : [`links      ${link}`]),
  ...(kept === null ? [] : [`kept rows  ${kept.source}: ${kept.note}`, `accuracy   ${kept.accuracy}`]),
  ...(lowered === null ? [] : loweredLines(lowered, loweredShare)),
]

/** Each says by itself what it is about: what several runs have in common is told apart from the rest line by line. */
const loweredLines = ({ p, source, note, accuracy }: LoweredGrounds, share: string): ReadonlyArray<string> => [
  `lowered p  ${p} for ${share} of requests, whose kept rows are ${source}: ${note}`,
  `           accuracy at ${p}: ${accuracy}`,
]

/**
 * What several runs rest on: what holds for all of them once, then the rest with the names of those that it holds for. Runs
 * that differ in their shares of steps and requests alone have a line together, from the least share to the largest.
 */
export const provenanceTable = (
  runs: ReadonlyArray<{ readonly name: string; readonly provenance: Provenance }>,
): ReadonlyArray<string> => {
  const groups = new Map<string, { readonly names: Set<string>; readonly provenances: Array<Provenance> }>()
  for (const { name, provenance } of runs) {
    const key = provenanceLines(withShares(provenance, 0, 0), percent(0)).join("\n")
    const group = groups.get(key) ?? { names: new Set(), provenances: [] }
    group.names.add(name)
    group.provenances.push(provenance)
    groups.set(key, group)
  }
  const stated = [...groups.values()].map(({ names, provenances }) => {
    const shares = provenances.map(({ outsideShare }) => outsideShare)
    const lowered = provenances.map((one) => one.lowered?.share ?? 0)
    return {
      names,
      lines: provenanceLines(
        withShares(provenances[0]!, Math.min(...shares), Math.max(...shares)),
        range(Math.min(...lowered), Math.max(...lowered)),
      ),
    }
  })
  const common = stated[0]?.lines.filter((line) => stated.every(({ lines }) => lines.includes(line))) ?? []
  return [
    ...common,
    ...stated.flatMap(({ names, lines }) => {
      const own = lines.filter((line) => !common.includes(line))
      return own.length === 0 ? [] : [`${nameList([...names])}:`, ...own.map((line) => `  ${line}`)]
    }),
  ]
}

const namesListed = 4

const nameList = (names: ReadonlyArray<string>): string =>
  names.length <= namesListed
    ? names.join(", ")
    : `${names.slice(0, namesListed - 1).join(", ")} and ${names.length - namesListed + 1} others`

const withShares = (provenance: Provenance, least: number, most: number): Provenance => {
  const { ratesNote, outsideShare } = provenance
  return {
    ...provenance,
    ratesNote: ratesNote.replace(stepsOutside(outsideShare, outsideShare), stepsOutside(least, most)),
  }
}

const stepsOutside = (least: number, most: number): string =>
  `${range(least, most)} of steps outside of what was measured`

const range = (least: number, most: number): string => {
  const [from, to] = [percent(least), percent(most)]
  return from === to ? from : `${from} to ${to}`
}

/** Rounded, but neither to nothing nor to all where it is neither. */
const percent = (share: number): string => {
  const rounded = Math.round(share * 100)
  if (rounded === 0 && share > 0) return "< 1%"
  return rounded === 100 && share < 1 ? "> 99%" : `${rounded}%`
}
