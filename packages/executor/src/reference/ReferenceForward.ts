import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { keptIndices, selectBlocks } from "@uniprefill/model/Selection"
import { massesToFixedPoint } from "./FixedPoint.ts"
import {
  attend,
  attentionWeights,
  embed,
  finishLayer,
  logitsOf,
  referenceAttention,
  referenceLayer,
  type ReferenceModel,
  project,
  recur,
  rmsNorm,
  rotate,
} from "./ReferenceModel.ts"

/** A prompt and its output so far, computed as a whole. */
export interface ForwardRequest {
  readonly tokens: ArrayLike<number>
  /** How many of `tokens` are the prompt. */
  readonly promptLength: number
  readonly schedule: DropSchedule
  /** p of each drop layer as unsigned Q32, or null for a request that does not drop. */
  readonly pQ32: ReadonlyArray<bigint> | null
  /** Selections to apply instead of scoring, as far as they go. */
  readonly bitmaps?: ReadonlyArray<Uint32Array>
}

export interface ForwardResult {
  /** Logits of the token after the prompt, and after each output token: [1 + outputs][vocab]. */
  readonly logits: ReadonlyArray<Float64Array>
  readonly bitmaps: ReadonlyArray<Uint32Array>
  /** Original positions of the prompt's rows in every segment; the first is the whole prompt. */
  readonly kept: ReadonlyArray<ReadonlyArray<number>>
}

/**
 * The whole prompt through the whole model at once: no pages, no chunks, no cache. The oracle of executors.
 *
 * A drop layer is computed for every row and rows are dropped after it, as in the paper; executors select first and
 * attend with the rows kept. The two are equal bit by bit.
 */
export const referenceForward = (model: ReferenceModel, request: ForwardRequest): ForwardResult => {
  const { spec } = model
  const { schedule, promptLength, pQ32 } = request
  const { heads, kvHeads, headDim } = referenceAttention(spec)
  const width = kvHeads * headDim
  const bitmaps: Array<Uint32Array> = []
  let positions = Array.from({ length: request.tokens.length }, (_, i) => i)
  let rows = positions.map((position) => embed(model, request.tokens[position]!))
  let prompt = promptLength
  const kept = [positions.slice(0, prompt)]

  for (const [index, layer] of model.layers.entries()) {
    const { kind, window } = referenceLayer(spec, index)
    const normed = rows.map((row) => rmsNorm(spec, row, layer.inputNorm))
    if (kind === "state") {
      const state = new Float64Array(width)
      rows = rows.map((row, i) => finishLayer(spec, layer, row, recur(layer, normed[i]!, state)))
      continue
    }
    const queries = normed.map((row, i) => rotate(spec, project(layer.q, row), positions[i]!))
    const keys = new Float64Array(rows.length * width)
    const values = new Float64Array(rows.length * width)
    for (const [i, row] of normed.entries()) {
      keys.set(rotate(spec, project(layer.k, row), positions[i]!), i * width)
      values.set(project(layer.v, row), i * width)
    }
    rows = rows.map((row, i) => {
      const visible = (j: number) =>
        schedule.windowBy === "kept" ? i - j < window : positions[i]! - positions[j]! < window
      let lo = 0
      if (kind === "sliding") while (!visible(lo)) lo++
      return finishLayer(spec, layer, row, attend(spec, queries[i]!, keys, values, lo, i))
    })

    const selection = schedule.dropLayers.findIndex((drop) => drop.layer === index)
    if (selection < 0 || pQ32 === null) continue
    const shape = { rows: prompt, block: schedule.block, sink: schedule.sink, lastQ: schedule.lastQ }
    const score = () => {
      const masses = Array.from({ length: heads }, () => new Float64Array(Math.ceil(prompt / schedule.block)))
      for (const [head, mass] of masses.entries()) {
        for (let q = Math.max(0, prompt - schedule.lastQ); q < prompt; q++) {
          const weights = attentionWeights(spec, queries[q]!, head, keys, 0, q)
          for (let j = 0; j <= q; j++) mass[Math.floor(j / schedule.block)]! += weights[j]!
        }
      }
      return selectBlocks(massesToFixedPoint(masses), pQ32[selection]!, schedule.rule, shape)
    }
    const bitmap = request.bitmaps?.[selection] ?? score()
    const stay = [...keptIndices(bitmap, shape), ...positions.slice(prompt).map((_, i) => prompt + i)]
    bitmaps.push(bitmap)
    rows = stay.map((i) => rows[i]!)
    positions = stay.map((i) => positions[i]!)
    prompt = stay.length - (request.tokens.length - promptLength)
    kept.push(positions.slice(0, prompt))
  }
  return { logits: rows.slice(prompt - 1).map((row) => logitsOf(model, row)), bitmaps, kept }
}
