import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { KeepPoint } from "./KeepProfile.ts"

/** What was kept of prompts of one length under one p at every drop layer. */
export interface KeepMeasurement extends KeepPoint {
  readonly p: number
}

/** Shares for a schedule, and what of its p the measurements do not reach. */
export interface KeepAtP {
  readonly points: ReadonlyArray<KeepPoint>
  /** A sentence for each length and p beyond the measured ones; the nearest measurement stands for it. */
  readonly outside: ReadonlyArray<string>
}

/**
 * Shares kept under a schedule's own p, drop layer by drop layer, on a line between the measured p at each measured length.
 * Requires measurements ascending by length, then by p, with a share for every drop layer of the schedule.
 */
export const keepAtP = (measured: ReadonlyArray<KeepMeasurement>, { dropLayers }: DropSchedule): KeepAtP => {
  const lengths = [...new Set(measured.map(({ tokens }) => tokens))]
  const outside: Array<string> = []
  const points = lengths.map((tokens): KeepPoint => {
    const grid = measured.filter((one) => one.tokens === tokens)
    const from = grid[0]!.p
    const to = grid.at(-1)!.p
    for (const p of new Set(dropLayers.map((drop) => drop.p))) {
      if (p < from || p > to) outside.push(`p ${p} at ${tokens} tokens, measured ${from} to ${to}`)
    }
    let before = 1
    const kept = dropLayers.map(({ p }, drop) => {
      // Of different p at neighbouring layers a later set could come out larger: sets are nested.
      before = Math.min(before, shareAt(grid, p, drop))
      return before
    })
    return { tokens, kept }
  })
  return { points, outside }
}

const shareAt = (grid: ReadonlyArray<KeepMeasurement>, p: number, drop: number): number => {
  const after = grid.findIndex((one) => one.p >= p)
  if (after <= 0) return grid.at(after)!.kept[drop]!
  const low = grid[after - 1]!
  const high = grid[after]!
  const weight = (p - low.p) / (high.p - low.p)
  return low.kept[drop]! * (1 - weight) + high.kept[drop]! * weight
}
