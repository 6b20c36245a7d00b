import { ItemField, sectionWidths } from "@uniprefill/scheduler/StepPlan"
import { addOwnedSlabs } from "../metrics/OccupancyLog.ts"
import type { Inspected } from "../output/Inspected.ts"
import type { StepRecord } from "../Replica.ts"
import { StepFlag, TimelineBuilder, type Timeline } from "./Timeline.ts"

/** Steps of a replica between two samples of its memory by what uses it: looking at every request costs as much as a step. */
const stepsBetweenSamples = 16

/** Steps in which a preempted request that cannot be found is looked for: it may have been given up meanwhile. */
const maxSearches = 64

/** Watches serving loops, simulated or recorded, and keeps what their timeline shows. */
export class LoopRecorder {
  private builder: TimelineBuilder
  private readonly tables: number
  private recorded = 0
  private readonly owned: Array<number>
  /** Of each replica. */
  private readonly replicas: ReadonlyArray<{ steps: number; selections: number; preemptions: number; searches: number }>
  /** Preemptions known of each request, by its row. */
  private readonly preemptions = new Map<number, number>()

  constructor(replicas: number, segments: number, tables: number) {
    this.builder = new TimelineBuilder(segments, tables)
    this.tables = tables
    this.owned = new Array<number>(tables).fill(0)
    this.replicas = Array.from({ length: replicas }, () => ({
      steps: 0,
      selections: 0,
      preemptions: 0,
      searches: 0,
    }))
  }

  /** Steps recorded. */
  get steps(): number {
    return this.recorded
  }

  /** What was recorded, which is given away: the recorder keeps the number of steps alone. */
  finish(): Timeline {
    const timeline = this.builder.build()
    this.builder = new TimelineBuilder(0, this.tables)
    return timeline
  }

  stepStarted(replica: Inspected, step: StepRecord, endMicros: number, nowMicros: number): void {
    const { builder } = this
    this.recorded++
    const { device, driver, config } = replica
    const { load } = device
    const { plan } = step
    const seen = this.replicas[replica.index]!
    for (let i = 0; i < plan.items.length; i += sectionWidths.items) {
      const { data } = plan.items
      const { key: row } = device.contentOf(data[i + ItemField.slot]!)
      builder.addItem(
        row,
        data[i + ItemField.firstSegment]!,
        data[i + ItemField.lastSegment]!,
        data[i + ItemField.rows]!,
      )
    }
    const { memory, preemptions } = driver.scheduler
    if (preemptions !== seen.preemptions) this.findPreempted(replica, nowMicros)
    if (seen.steps++ % stepsBetweenSamples === 0) this.sample(replica, step.startMicros)
    builder.addStep({
      replica: replica.index,
      stepId: plan.stepId,
      start: step.startMicros,
      micros: endMicros - step.startMicros,
      planned: step.plannedMicros,
      decodeRows: load.decodeRows,
      items: load.items,
      selections: device.selections - seen.selections,
      flags:
        (step.failed ? StepFlag.failed : 0) |
        (config.costModel.isOutside?.(load) === true ? StepFlag.outsideCalibration : 0),
      waiting: driver.waiting,
      running: driver.running,
      used: memory.used,
      rows: load.rows,
    })
    seen.selections = device.selections
  }

  private sample({ index, driver, config }: Inspected, time: number): void {
    const { owned } = this
    const { scheduler } = driver
    const { tree } = scheduler.memory
    owned.fill(0)
    addOwnedSlabs(scheduler, config.layout, owned)
    this.builder.addSample(index, time, owned, tree.slabs - tree.idleSlabs, tree.idleSlabs)
  }

  /** A preempted request waits again, at once or when the step in flight that holds work of it is done. */
  private findPreempted(replica: Inspected, time: number): void {
    const { scheduler } = replica.driver
    const seen = this.replicas[replica.index]!
    for (const request of scheduler.waiting) {
      if (request.account.preemptions === 0) continue
      const row = replica.rowOf(request.id)
      const known = this.preemptions.get(row) ?? 0
      if (request.account.preemptions <= known) continue
      this.preemptions.set(row, request.account.preemptions)
      seen.preemptions += request.account.preemptions - known
      this.builder.addPreemption(row, time)
    }
    if (seen.preemptions === scheduler.preemptions) seen.searches = 0
    else if (++seen.searches > maxSearches) {
      seen.preemptions = scheduler.preemptions
      seen.searches = 0
    }
  }
}
