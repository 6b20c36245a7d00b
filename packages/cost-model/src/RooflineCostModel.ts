import type { SegmentWork } from "@uniprefill/model/Work"
import type { CostModel } from "@uniprefill/scheduler/CostModel"
import type { StepLoad } from "@uniprefill/scheduler/StepLoad"
import type { CostTable } from "./CostTable.ts"

/**
 * Step time from a roofline: each segment's matrix products take the longer of computing and of reading the weights, with
 * decode rows and prefill rows sharing one reading; attention adds to it.
 */
export class RooflineCostModel implements CostModel {
  readonly work: ReadonlyArray<SegmentWork>
  readonly table: CostTable
  /** Queries that a selection scores. */
  readonly lastQ: number

  constructor(work: ReadonlyArray<SegmentWork>, table: CostTable, lastQ: number) {
    this.work = work
    this.table = table
    this.lastQ = lastQ
  }

  stepMicros(load: StepLoad): number {
    const { work, table } = this
    let micros = table.stepMicros + load.items * table.itemMicros
    for (let s = 0; s < work.length; s++) {
      const segment = work[s]!
      const rows = load.rows[s]!
      const decodes = load.decodeRows
      if (rows > 0 || decodes > 0) {
        const flops = rows * segment.rowFlops + decodes * segment.decodeRowFlops
        const bytes = decodes > 0 ? segment.decodeWeightBytes : segment.weightBytes
        micros += Math.max(flops / table.gemmFlopsPerMicro, bytes / table.bytesPerMicro)
      }
      if (rows > 0) {
        const flops = load.pairs[s]! * segment.pairFlops + load.entryPairs[s]! * segment.entryPairFlops
        micros += flops / table.attentionFlopsPerMicro
      }
      micros += (load.scoredRows[s]! * this.lastQ * segment.scorePairFlops) / table.attentionFlopsPerMicro
      if (decodes > 0) {
        const keys = load.decodeKeys[s]!
        micros += Math.max(
          (keys * segment.decodePairFlops) / table.attentionFlopsPerMicro,
          (keys * segment.decodeKeyBytes) / table.bytesPerMicro,
        )
      }
    }
    return Math.ceil(micros)
  }
}
