import { makeKvLayout } from "@uniprefill/model/KvLayout"
import { addChunk, type ChunkLimits, largestChunk, smallestChunk } from "@uniprefill/scheduler/Prefill"
import { Request } from "@uniprefill/scheduler/Request"
import { StepLoad, windowsOf } from "@uniprefill/scheduler/StepLoad"
import fc from "fast-check"
import { expect, it } from "vitest"
import { hybridSchedule, hybridSpec } from "../../../test/simulation/Models.ts"

const layout = makeKvLayout(hybridSpec, hybridSchedule, { pageSize: 64, kvElementBytes: 2, carryElementBytes: 2 })

/** Every row of every segment costs as much: what an item that runs on costs is counted by hand. */
const measure = { stepMicros: (load: StepLoad) => load.rows.reduce((sum, rows) => sum + rows, load.decodeRows) }

const integer = (min: number, max: number) => fc.integer({ min, max })

const drawn = fc.record({
  promptLength: integer(1, 6000),
  computedChunks: integer(0, 90),
  drops: fc.boolean(),
  /** Rows of others that the step holds already. */
  others: fc.array(integer(1, 500), { maxLength: 3 }),
  decodes: integer(0, 40),
  most: integer(1, 20_000),
  rowsPerSegment: integer(64, 4096),
  cut: fc.constantFrom(64, 640, Number.POSITIVE_INFINITY),
  /** The last segment that an item finds memory for. */
  memoryTo: integer(0, 2),
})

it("the chunk found is the largest within its limits, and finding it leaves request and load as they were", () => {
  fc.assert(
    fc.property(drawn, ({ promptLength, computedChunks, drops, others, decodes, memoryTo, ...limited }) => {
      const request = new Request(1, { promptLength, drops }, 10, drops, layout, 0)
      const { progress } = request
      progress.computedRows = 64 * Math.min(computedChunks, Math.floor((promptLength - 1) / 64))
      const load = new StepLoad(layout.segments.length, windowsOf(layout))
      load.decodeRows = decodes
      load.items = others.length
      for (const rows of others) load.addRows(1, 0, 0, rows, rows, 0)
      const limits: ChunkLimits = {
        ...limited,
        measure,
        chunkRows: 64,
        hasMemory: (_request, _rows, lastSegment) => lastSegment <= memoryTo,
      }
      const before = structuredClone(load)
      const progressBefore = structuredClone(progress)
      const chunk = largestChunk(request, layout, load, limits)
      smallestChunk(request, layout, load, limits)
      expect(structuredClone(load)).toEqual(before)
      expect(structuredClone(progress)).toEqual(progressBefore)

      const remaining = promptLength - progress.computedRows
      const cost = (rows: number, lastSegment: number) => {
        const whole = new StepLoad(layout.segments.length, windowsOf(layout))
        whole.add(load)
        addChunk(request, layout, whole, { rows, lastSegment })
        return measure.stepMicros(whole)
      }
      const together = drops ? 0 : layout.segments.length - 1
      const taken = others.reduce((sum, rows) => sum + rows, 0)
      const fits = (rows: number) =>
        rows <= Math.min(remaining, limits.cut, limits.rowsPerSegment - taken) && cost(rows, together) <= limits.most
      // Whole chunks, or all that is left.
      const candidates = [...Array.from({ length: Math.floor(remaining / 64) }, (_, i) => 64 * (i + 1)), remaining]
      expect(chunk?.rows ?? 0).toBe(Math.max(0, ...candidates.filter(fits)))
      if (chunk === null) return
      expect(chunk.lastSegment).toBeGreaterThanOrEqual(together)
      if (chunk.lastSegment === together) return
      expect(chunk.rows).toBe(remaining)
      expect(chunk.lastSegment).toBeLessThanOrEqual(memoryTo)
      expect(cost(chunk.rows, chunk.lastSegment)).toBeLessThanOrEqual(limits.most)
    }),
  )
})
