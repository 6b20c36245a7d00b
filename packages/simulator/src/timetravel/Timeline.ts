import { float64s, uint16s, uint32s, uint8s } from "./GrowingColumn.ts"

/**
 * A run as a timeline draws it: columns of steps in the order in which they were planned, of the pieces of prefill in them, of
 * preemptions, and of memory by what uses it. Plain typed arrays: they cross threads without a copy.
 */
export interface Timeline {
  readonly steps: StepColumns
  readonly items: ItemColumns
  readonly preemptions: PreemptionColumns
  readonly memory: MemoryColumns
}

export interface StepColumns {
  readonly count: number
  readonly replica: Uint8Array
  /** The number that the replica's loop gave it. */
  readonly stepId: Uint32Array
  /** On the device, µs: begin, and how long. */
  readonly start: Float64Array
  readonly micros: Uint32Array
  /** What the scheduler predicted, µs. */
  readonly planned: Uint32Array
  readonly decodeRows: Uint16Array
  readonly items: Uint16Array
  readonly selections: Uint16Array
  /** See {@link StepFlag}. */
  readonly flags: Uint8Array
  /** After planning, on the replica. */
  readonly waiting: Uint32Array
  readonly running: Uint16Array
  /** Slabs that somebody uses. */
  readonly used: Uint32Array
  /** Prefill rows of each segment. */
  readonly rows: ReadonlyArray<Uint32Array>
}

export const StepFlag = { failed: 1, outsideCalibration: 2 } as const

/** Pieces of prefill, in the order of their steps. */
export interface ItemColumns {
  readonly count: number
  /** Place of the step in {@link StepColumns}. */
  readonly step: Uint32Array
  /** Row of the workload. */
  readonly request: Uint32Array
  readonly firstSegment: Uint8Array
  readonly lastSegment: Uint8Array
  readonly rows: Uint32Array
}

/** Times at which requests gave up their memory. */
export interface PreemptionColumns {
  readonly count: number
  readonly request: Uint32Array
  readonly time: Float64Array
}

/** Samples of a replica's slabs, table by table those that requests own alone, then shared and idle prefixes. */
export interface MemoryColumns {
  readonly count: number
  readonly replica: Uint8Array
  readonly time: Float64Array
  readonly slabs: ReadonlyArray<Uint32Array>
}

/** A step as the columns keep it. */
export interface TimelineStep {
  readonly replica: number
  readonly stepId: number
  readonly start: number
  readonly micros: number
  readonly planned: number
  readonly decodeRows: number
  readonly items: number
  readonly selections: number
  readonly flags: number
  readonly waiting: number
  readonly running: number
  readonly used: number
  readonly rows: ArrayLike<number>
}

/** Fills the columns of a timeline. */
export class TimelineBuilder {
  /** Steps so far. */
  get count(): number {
    return this.start.length
  }
  private readonly replica = uint8s()
  private readonly stepId = uint32s()
  private readonly start = float64s()
  private readonly micros = uint32s()
  private readonly planned = uint32s()
  private readonly decodeRows = uint16s()
  private readonly itemCount = uint16s()
  private readonly selections = uint16s()
  private readonly flags = uint8s()
  private readonly waiting = uint32s()
  private readonly running = uint16s()
  private readonly used = uint32s()
  private readonly rows
  private readonly itemStep = uint32s()
  private readonly itemRequest = uint32s()
  private readonly itemFirst = uint8s()
  private readonly itemLast = uint8s()
  private readonly itemRows = uint32s()
  private readonly preempted = uint32s()
  private readonly preemptedAt = float64s()
  private readonly sampleReplica = uint8s()
  private readonly sampleTime = float64s()
  private readonly samples

  constructor(segments: number, tables: number) {
    this.rows = Array.from({ length: segments }, uint32s)
    this.samples = Array.from({ length: tables + 2 }, uint32s)
  }

  addStep(step: TimelineStep): void {
    this.replica.push(step.replica)
    this.stepId.push(step.stepId)
    this.start.push(step.start)
    this.micros.push(step.micros)
    this.planned.push(step.planned)
    this.decodeRows.push(step.decodeRows)
    this.itemCount.push(step.items)
    this.selections.push(step.selections)
    this.flags.push(step.flags)
    this.waiting.push(step.waiting)
    this.running.push(step.running)
    this.used.push(step.used)
    for (let s = 0; s < this.rows.length; s++) this.rows[s]!.push(step.rows[s]!)
  }

  /** A piece of the step to be added next. */
  addItem(request: number, firstSegment: number, lastSegment: number, rows: number): void {
    this.itemStep.push(this.start.length)
    this.itemRequest.push(request)
    this.itemFirst.push(firstSegment)
    this.itemLast.push(lastSegment)
    this.itemRows.push(rows)
  }

  addPreemption(request: number, time: number): void {
    this.preempted.push(request)
    this.preemptedAt.push(time)
  }

  addSample(replica: number, time: number, owned: ReadonlyArray<number>, shared: number, idle: number): void {
    this.sampleReplica.push(replica)
    this.sampleTime.push(time)
    for (let t = 0; t < owned.length; t++) this.samples[t]!.push(owned[t]!)
    this.samples[owned.length]!.push(shared)
    this.samples[owned.length + 1]!.push(idle)
  }

  /** What was added, which is given away: the builder is empty afterwards. */
  build(): Timeline {
    return {
      steps: {
        count: this.start.length,
        replica: this.replica.take(),
        stepId: this.stepId.take(),
        start: this.start.take(),
        micros: this.micros.take(),
        planned: this.planned.take(),
        decodeRows: this.decodeRows.take(),
        items: this.itemCount.take(),
        selections: this.selections.take(),
        flags: this.flags.take(),
        waiting: this.waiting.take(),
        running: this.running.take(),
        used: this.used.take(),
        rows: this.rows.map((column) => column.take()),
      },
      items: {
        count: this.itemStep.length,
        step: this.itemStep.take(),
        request: this.itemRequest.take(),
        firstSegment: this.itemFirst.take(),
        lastSegment: this.itemLast.take(),
        rows: this.itemRows.take(),
      },
      preemptions: {
        count: this.preempted.length,
        request: this.preempted.take(),
        time: this.preemptedAt.take(),
      },
      memory: {
        count: this.sampleTime.length,
        replica: this.sampleReplica.take(),
        time: this.sampleTime.take(),
        slabs: this.samples.map((column) => column.take()),
      },
    }
  }
}
