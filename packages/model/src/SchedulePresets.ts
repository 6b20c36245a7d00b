import { type DropSchedule, denseSchedule } from "./DropSchedule.ts"

/**
 * Schedules by name, with the paper's layers and shares and its rule. They were measured on these models only: which layers
 * may drop is a property of the weights.
 *
 * Source: arXiv 2605.06221, reference settings.
 */
const reference = (layers: ReadonlyArray<number>, p: number): DropSchedule => ({
  ...denseSchedule,
  rule: "reference",
  dropLayers: layers.map((layer) => ({ layer, p })),
})

export const schedulePresets: ReadonlyMap<string, DropSchedule> = new Map([
  ["llama-3.1-8b", reference([7, 11, 15, 19, 23, 27], 0.99)],
  ["gemma-3-12b", reference([29, 35, 41], 0.975)],
  ["qwen3-next-80b-a3b", reference([7, 11, 15, 19, 23, 27, 31, 35, 39, 43], 0.99)],
])
