import { Memory } from "@uniprefill/scheduler/Memory"
import { Request } from "@uniprefill/scheduler/Request"
import { type RankMemory, rankMemory, type RankMemoryOptions } from "./RankMemory.ts"
import { type Shard, shardsOf, splitFault } from "./Shards.ts"

/** Devices that are all alike, in hosts whose devices are linked with each other. */
export interface DeviceMesh {
  readonly devices: number
  /** A tensor-parallel group stays within one host. */
  readonly devicesPerHost: number
  readonly memoryBytes: number
}

/** What requests must see at most, and how it is predicted for a tensor-parallel degree: a cost model's business. */
export interface Target {
  readonly timeToFirstTokenMicros: number
  readonly timePerTokenMicros: number
  readonly predict: (tensorParallel: number) => {
    readonly timeToFirstTokenMicros: number
    readonly timePerTokenMicros: number
  }
}

export interface PlacementRequest extends RankMemoryOptions {
  readonly mesh: DeviceMesh
  /** Share of each device's memory that may be used. */
  readonly memoryUtilization: number
  readonly target?: Target | undefined
}

/** A layout that works. */
export interface PlacementPlan {
  readonly tensorParallel: number
  readonly replicas: number
  /** Devices that no replica uses. */
  readonly idleDevices: number
  /** By rank; the same in every replica. */
  readonly shards: ReadonlyArray<Shard>
  /** Of each rank. */
  readonly memory: RankMemory
  /** Of each replica: all ranks hold the same number. */
  readonly slabs: number
  /** Dense requests of the longest length that a replica holds at the same time. */
  readonly longestAtOnce: number
}

/** A layout that was considered and does not work, and why, with the numbers. */
export interface Misfit {
  readonly tensorParallel: number
  readonly reason: "Split" | "Mesh" | "Weights" | "Request" | "Target"
  readonly detail: string
}

export type PlacementOutcome =
  | { readonly _tag: "Placed"; readonly plan: PlacementPlan; readonly misfits: ReadonlyArray<Misfit> }
  | { readonly _tag: "NoFit"; readonly misfits: ReadonlyArray<Misfit> }

const degrees = [1, 2, 4, 8] as const

/**
 * The smallest tensor-parallel degree whose ranks hold the model and its longest request and meet the target, in as many
 * replicas as there are devices for. Fails with RangeError for a mesh or a share that is none.
 *
 * Splitting costs an all-reduce in every layer, so two replicas of one device serve more than one replica of two; a larger
 * degree is for models that do not fit and for targets that one device misses.
 */
export const place = (request: PlacementRequest): PlacementOutcome => {
  const { mesh, memoryUtilization } = request
  for (const [field, value] of Object.entries(mesh)) {
    if (!Number.isSafeInteger(value) || value < 1)
      throw new RangeError(`mesh.${field} must be an integer ≥ 1, got ${value}`)
  }
  if (!(memoryUtilization > 0 && memoryUtilization <= 1)) {
    throw new RangeError(`memoryUtilization must be above 0 and at most 1, got ${memoryUtilization}`)
  }
  const misfits: Array<Misfit> = []
  for (const tensorParallel of degrees) {
    const found = tryDegree(request, tensorParallel)
    if (!("detail" in found)) return { _tag: "Placed", plan: found, misfits }
    misfits.push(found)
  }
  return { _tag: "NoFit", misfits }
}

const tryDegree = (request: PlacementRequest, tensorParallel: number): PlacementPlan | Misfit => {
  const { mesh, spec, slots, maxModelLen, maxRowsPerStep } = request
  const misfit = (reason: Misfit["reason"], detail: string): Misfit => ({ tensorParallel, reason, detail })
  const most = Math.min(mesh.devices, mesh.devicesPerHost)
  if (tensorParallel > most) {
    return misfit("Mesh", `${tensorParallel} ranks, a host of this mesh has ${most} devices`)
  }
  const fault = splitFault(spec, tensorParallel)
  if (fault !== null) return misfit("Split", fault)

  const memory = rankMemory(request, tensorParallel)
  const usable = Math.floor(mesh.memoryBytes * request.memoryUtilization)
  const fixed = memory.weights + memory.states + memory.workspace + memory.reserve
  const slabs = Math.max(0, Math.floor((usable - fixed) / memory.layout.slabBytes))
  const parts = `weights ${show(memory.weights)}, states ${show(memory.states)}, workspace ${show(memory.workspace)} and reserve ${show(memory.reserve)}`
  if (slabs < 1) return misfit("Weights", `${parts} make ${show(fixed)} a device; ${show(usable)} can be used`)

  const need = slabsOfLongest(request, memory)
  if (need > slabs) {
    return misfit(
      "Request",
      `a request of ${maxModelLen} tokens may need ${need} slabs of ${show(memory.layout.slabBytes)}; ${show(usable - fixed)} beside ${parts} hold ${slabs}`,
    )
  }
  const { target } = request
  if (target !== undefined) {
    const predicted = target.predict(tensorParallel)
    for (const field of ["timeToFirstTokenMicros", "timePerTokenMicros"] as const) {
      if (predicted[field] > target[field]) {
        return misfit("Target", `${field} is predicted as ${predicted[field]}, at most ${target[field]} is wanted`)
      }
    }
  }
  const hosts = Math.floor(mesh.devices / most)
  const replicas = hosts * Math.floor(most / tensorParallel)
  const books = new Memory(memory.layout, slabs, slots, slots, maxRowsPerStep)
  const longestDense = books.worstCase(longest(request, memory, false))
  return {
    tensorParallel,
    replicas,
    idleDevices: mesh.devices - replicas * tensorParallel,
    shards: shardsOf(spec, tensorParallel),
    memory,
    slabs,
    longestAtOnce: Math.min(slots, Math.floor(slabs / longestDense)),
  }
}

/** The most that a request can ever hold: dense, or dropping with every row kept and its carries beside. */
const slabsOfLongest = (request: PlacementRequest, memory: RankMemory): number => {
  const { slots, maxRowsPerStep, schedule } = request
  const books = new Memory(memory.layout, 1, slots, slots, maxRowsPerStep)
  const drops = schedule.dropLayers.length > 0
  return Math.max(...[false, ...(drops ? [true] : [])].map((one) => books.worstCase(longest(request, memory, one))))
}

const longest = ({ maxModelLen }: PlacementRequest, { layout }: RankMemory, drops: boolean): Request => {
  const promptLength = maxModelLen - 1
  return new Request(0, { promptLength, drops }, 1, drops, layout, 0)
}

const show = (bytes: number): string =>
  bytes >= 1e8 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(2)} MB`
