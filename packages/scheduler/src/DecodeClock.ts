/**
 * Counts the rows that plans have given to every request that decodes. A member notes where the clock stood when it joined, so
 * that a step touches none of them.
 */
export class DecodeClock {
  /** Rows of each member so far, of one that were one from the start. */
  rows = 0
  /** The step that holds the last of them. */
  lastStep = 0

  /** A plan gives every member its next row. */
  advance(stepId: number): void {
    this.rows++
    this.lastStep = stepId
  }
}
