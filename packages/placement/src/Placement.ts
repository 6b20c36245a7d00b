import type { KvLayout } from "@uniprefill/model/KvLayout"
import { Memory } from "@uniprefill/scheduler/Memory"
import { Request } from "@uniprefill/scheduler/Request"
import { fitRank, type RankFit, type RankFitOptions, showBytes, showParts } from "./RankFit.ts"

/** Devices that are all alike, in hosts whose devices are linked with each other. */
export interface DeviceMesh {
  readonly devices: number
  /** A tensor-parallel group stays within one host. */
  readonly devicesPerHost: number
}

/** What a request sees. */
export interface Latencies {
  readonly timeToFirstTokenMicros: number
  readonly timePerTokenMicros: number
}

export interface PlacementRequest extends RankFitOptions {
  readonly mesh: DeviceMesh
  /** What is seen under a tensor-parallel degree whose ranks fit: a cost model's business. Null: nothing can be said. */
  readonly predict?: ((tensorParallel: number, fit: RankFit) => Latencies | null) | undefined
  /** The most that may be predicted; Infinity where nothing is wanted. */
  readonly target?: Latencies | undefined
}

/** Why a layout does not work, with the numbers. */
export interface Misfit {
  readonly reason: "Mesh" | "Split" | "Weights" | "Request" | "Target"
  readonly detail: string
}

/** One way to run a model on a mesh. */
export interface Layout {
  readonly tensorParallel: number
  /** As many as there are devices for; 0 where a host has too few. */
  readonly replicas: number
  /** Devices that no replica uses. */
  readonly idleDevices: number
  /** Of each rank, in every replica; null where the model cannot be split so, or its weights leave no room. */
  readonly fit: RankFit | null
  /** Null where nothing fits, or nothing predicts. */
  readonly predicted: Latencies | null
  /** Null: the layout works. */
  readonly misfit: Misfit | null
}

const degrees = [1, 2, 4, 8] as const

/**
 * Every tensor-parallel degree that there are devices for, the smallest first, each in as many replicas as there are devices for. Fails with RangeError
 * for a mesh or a share of memory that is none.
 *
 * Of those that work the first is the one to take. Splitting costs an all-reduce in every layer, so two replicas of one
 * device serve more than one replica of two; a larger degree is for models that do not fit and for targets that one device
 * misses.
 */
export const layoutsOf = (request: PlacementRequest): ReadonlyArray<Layout> => {
  for (const [field, value] of Object.entries(request.mesh)) {
    if (!Number.isSafeInteger(value) || value < 1)
      throw new RangeError(`mesh.${field} must be an integer ≥ 1, got ${value}`)
  }
  const { devices } = request.mesh
  return degrees.filter((degree) => degree <= devices).map((degree) => layoutOf(request, degree))
}

const layoutOf = (request: PlacementRequest, tensorParallel: number): Layout => {
  const { devices, devicesPerHost } = request.mesh
  const perHost = Math.min(devices, devicesPerHost)
  const within = (host: number) => Math.floor(host / tensorParallel)
  // The last host may be filled in part.
  const replicas = Math.floor(devices / perHost) * within(perHost) + within(devices % perHost)
  const base = { tensorParallel, replicas, idleDevices: devices - replicas * tensorParallel }
  const none = { ...base, fit: null, predicted: null }
  if (replicas === 0) {
    const detail = `${tensorParallel} ranks are linked within a host, which has ${perHost} device${perHost === 1 ? "" : "s"}`
    return { ...none, misfit: { reason: "Mesh", detail } }
  }
  const fit = fitRank(request, tensorParallel)
  if ("reason" in fit) return { ...none, misfit: fit }
  const predicted = request.predict?.(tensorParallel, fit) ?? null
  return { ...base, fit, predicted, misfit: tooLong(request, fit) ?? missed(predicted, request.target) }
}

/** Why the longest request could never be served. */
const tooLong = (request: PlacementRequest, { memory, slabs, usableBytes }: RankFit): Misfit | null => {
  const need = slabsOfLongest(request, memory.layout)
  if (need <= slabs) return null
  const { slabBytes } = memory.layout
  const free = usableBytes - memory.weights - memory.states - memory.workspace - memory.reserve
  const detail =
    `a request of ${request.maxModelLen} tokens may need ${need} slabs of ${showBytes(slabBytes)}; ` +
    `${showBytes(free)} beside ${showParts(memory)} hold ${slabs}`
  return { reason: "Request", detail }
}

/** The most that a request can ever hold: dense, or dropping with every row kept and its carries beside. */
const slabsOfLongest = (request: PlacementRequest, layout: KvLayout): number => {
  const { schedule, slots, maxRowsPerStep, maxModelLen } = request
  const books = new Memory({ layout, slabs: 1, slots, stateSlots: slots, maxRowsPerStep })
  const worst = (drops: boolean) =>
    books.worstCase(new Request(0, { promptLength: maxModelLen - 1, drops }, 1, drops, layout, 0))
  return Math.max(worst(false), schedule.dropLayers.length === 0 ? 0 : worst(true))
}

const missed = (predicted: Latencies | null, target: Latencies | undefined): Misfit | null => {
  if (predicted === null || target === undefined) return null
  const names = { timeToFirstTokenMicros: "time to first token", timePerTokenMicros: "time per token" } as const
  for (const field of ["timeToFirstTokenMicros", "timePerTokenMicros"] as const) {
    if (predicted[field] <= target[field]) continue
    const detail = `${names[field]} is predicted as ${millis(predicted[field])}, at most ${millis(target[field])} is wanted`
    return { reason: "Target", detail }
  }
  return null
}

const millis = (micros: number): string => `${micros / 1000} ms`
