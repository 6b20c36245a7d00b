import type { Request } from "@uniprefill/scheduler/Request"
import { ItemField, sectionWidths, type StepPlan } from "@uniprefill/scheduler/StepPlan"
import { StepLoad } from "@uniprefill/scheduler/StepLoad"

/** A request as seen from outside, by what was submitted, planned and returned. */
export interface Seen {
  readonly request: Request
  readonly arrived: number
  /** |S_i| of every selection returned; the prompt's length first. */
  kept: Array<number>
  outputs: number
  bypasses: number
  preemptions: number
  /** When it began to wait last with output that it had not had the time before, and how much that was. */
  pausedSince: number
  pausedAt: number
  /** What computing it again was predicted to take then. */
  prefillMicros: number
  /** When its first token since it got its slot was planned; infinite before. */
  runsSince: number
  /** It had paused for too long when it was given its slot. */
  hasTurn: boolean
  /** Since when it is the oldest prompt without a first token; −1 before. */
  frontSince: number
  hasFirstToken: boolean
  /** Preempted, and not opened since: what steps in flight sample of it is accepted, and does not make it decode. */
  startsOver: boolean
  ended: boolean
}

export interface OpenSlot {
  readonly seen: Seen
  readonly replayed: number
  decodeRows: number
}

export interface Flying {
  readonly stepId: number
  /** Whose slots are which in this step: plans behind it may have closed some. */
  readonly owners: ReadonlyMap<number, Seen>
  /** Slots sampled from items. */
  readonly firsts: ReadonlyArray<readonly [source: number, target: number]>
}

/** The first tokens that a plan samples: whose prompt gives them, and who gets them, by slot. */
export const firstsOf = ({ samples, items }: StepPlan): ReadonlyArray<readonly [source: number, target: number]> => {
  const firsts: Array<readonly [number, number]> = []
  for (let i = 0; i < samples.length; i += 2) {
    const item = samples.data[i]! * sectionWidths.items
    firsts.push([items.data[item + ItemField.slot]!, samples.data[i + 1]!])
  }
  return firsts
}

export const copyOf = (load: StepLoad): StepLoad => {
  const copy = new StepLoad(load.rows.length)
  copy.add(load)
  return copy
}

/** Whether pages of a request's prefix have slabs that its tables do not have: it computed them too, and was not the first. */
export const hasCopies = ({ holdings }: Request): boolean => {
  const held = new Set(holdings.tables.flatMap((table) => [...table.toArray()]))
  for (let run = holdings.lastRun; run !== null && run.parent !== null; run = run.parent) {
    if (run.slabs.toArray().some((slab) => !held.has(slab))) return true
  }
  return false
}

export interface Item {
  readonly slot: number
  readonly firstRow: number
  readonly rows: number
  readonly firstSegment: number
  readonly lastSegment: number
}

/** The prefill items of a plan. */
export const itemsOf = ({ items: { data, length } }: StepPlan): ReadonlyArray<Item> => {
  const items: Array<Item> = []
  for (let i = 0; i < length; i += sectionWidths.items) {
    items.push({
      slot: data[i + ItemField.slot]!,
      firstRow: data[i + ItemField.firstRow]!,
      rows: data[i + ItemField.rows]!,
      firstSegment: data[i + ItemField.firstSegment]!,
      lastSegment: data[i + ItemField.lastSegment]!,
    })
  }
  return items
}

/** A property of the serving loop's decisions that did not hold. */
export const broken = (property: string, detail: string): never => {
  throw new Error(`${property}: ${detail}`)
}
