import type { KvLayout } from "@uniprefill/model/KvLayout"
import type { Request } from "./Request.ts"

/**
 * Which segments the rows of an item that starts at `segment` pass together: those of a request that drops one, for what
 * follows depends on a selection; those of one that does not all of them.
 */
export const lastSegmentTogether = (request: Request, segment: number, layout: KvLayout): number =>
  request.drops ? segment : layout.segments.length - 1

/**
 * Whether an item that starts at `first` passes only its own rows through `segment`; all that are kept before it, where it runs on there
 * from a selection.
 */
export const passesTogether = (request: Request, first: number, segment: number): boolean =>
  segment === first || !request.drops

/** Whether `rows` more rows complete the segment that the request is in. */
export const completesSegment = ({ progress }: Request, rows: number): boolean =>
  progress.computedRows + rows === progress.prefillRows(progress.segment)
