import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { type KvLayout, type KvLayoutOptions, makeKvLayout } from "@uniprefill/model/KvLayout"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import { rankSpec } from "./Shards.ts"

/**
 * The memory layout of one of `ranks` ranks: its KV heads, its recurrent states, and its part of each carry row. Tables and slab
 * numbers are the same on all ranks, so one plan is good for every one.
 *
 * Requires: `modelSplitFault` is null. Fails with RangeError as `makeKvLayout` does.
 */
export const rankLayout = (
  spec: ModelSpec,
  ranks: number,
  schedule: DropSchedule,
  options: KvLayoutOptions,
): KvLayout => makeKvLayout({ ...rankSpec(spec, ranks), hiddenSize: spec.hiddenSize / ranks }, schedule, options)
