import { ItemField, sectionWidths } from "@uniprefill/scheduler/StepPlan"
import type { Replica, StepRecord } from "../Replica.ts"
import type { Observer } from "../Simulation.ts"

/** An event of the Trace Event format, as chrome://tracing and ui.perfetto.dev read it. Times are µs. */
export interface TraceEvent {
  readonly ph: "M" | "X" | "C" | "s" | "t" | "f"
  readonly name: string
  readonly pid: number
  readonly tid: number
  readonly ts: number
  readonly dur?: number
  readonly cat?: string
  readonly id?: number
  readonly bp?: "e"
  readonly args?: Readonly<Record<string, unknown>>
}

/**
 * Records a run as a trace: a process for each replica with a track of its device, a slice for each step with what it holds,
 * and arrows that follow each request from its first piece of prefill to its first token.
 *
 * Bounded: steps beyond `maxSteps` are not recorded, and `complete` says so.
 *
 * For Perfetto's importer: a thread with its process's number is the main one, so a replica's device is that one and no
 * empty thread stands beside it; an arrow belongs to the slice opened last on its track, so a step's slice comes before its
 * arrows; and of what stands beside the events only `metadata` is shown.
 */
export class PerfettoTrace {
  complete = true
  readonly observer: Observer
  private readonly events: Array<TraceEvent> = []
  readonly maxSteps: number
  private steps = 0
  private readonly named = new Set<number>()
  /** Rows whose flow has begun. */
  private readonly begun = new Set<number>()

  constructor(maxSteps = 50_000) {
    this.maxSteps = maxSteps
    this.observer = { stepStarted: (replica, step, end) => this.add(replica, step, end) }
  }

  /** The whole file; `ended` says whether the run came to its end. */
  json(about: Readonly<Record<string, unknown>>, ended: boolean): string {
    return JSON.stringify({
      displayTimeUnit: "ms",
      metadata: { ...about, complete: this.complete && ended },
      traceEvents: this.events,
    })
  }

  private add(replica: Replica, { plan, startMicros, deviceMicros, failed }: StepRecord, endMicros: number): void {
    if (this.steps >= this.maxSteps) {
      this.complete = false
      return
    }
    this.steps++
    if (!this.named.has(replica.index)) {
      this.named.add(replica.index)
      this.nameTracks(replica)
    }
    const { load } = replica.device
    const at = trackOf(replica)
    const rows = load.rows[0]!
    const mix = [
      load.decodeRows > 0 ? `${load.decodeRows} decode` : "",
      load.items > 0 ? `${load.items} prefill` : "",
    ].filter(Boolean)
    this.events.push({
      ph: "X",
      cat: "step",
      name: `${failed ? "FAILED " : ""}${mix.join(" + ") || "bookkeeping"}`,
      ...at,
      ts: startMicros,
      dur: endMicros - startMicros,
      args: { step: plan.stepId, deviceMicros, decodeRows: load.decodeRows, segment0Rows: rows, items: load.items },
    })
    const { scheduler, waiting, running } = replica.driver
    this.events.push({ ph: "C", name: "requests", ...at, ts: startMicros, args: { waiting, running } })
    this.events.push({
      ph: "C",
      name: "slabs",
      ...at,
      ts: startMicros,
      args: { "in use": scheduler.memory.pool.used },
    })
    this.flows(replica, plan.items.data, plan.items.length, plan.samples.data, plan.samples.length, at, startMicros)
  }

  private flows(
    replica: Replica,
    items: Int32Array,
    itemsLength: number,
    samples: Int32Array,
    samplesLength: number,
    at: { readonly pid: number; readonly tid: number },
    ts: number,
  ): void {
    const sampled = new Set<number>()
    for (let i = 0; i < samplesLength; i += sectionWidths.samples) sampled.add(samples[i + 1]!)
    for (let i = 0; i < itemsLength; i += sectionWidths.items) {
      const slot = items[i + ItemField.slot]!
      const { key: row, promptLength: promptTokens } = replica.device.contentOf(slot)
      const flow = { cat: "request", name: `request ${row + 1}`, id: row + 1, ...at, ts }
      const args = {
        firstRow: items[i + 1],
        rows: items[i + 2],
        segments: `${items[i + 3]}–${items[i + 4]}`,
        promptTokens,
      }
      if (!this.begun.has(row)) {
        this.begun.add(row)
        this.events.push({ ph: "s", ...flow, args })
      } else this.events.push(sampled.has(slot) ? { ph: "f", bp: "e", ...flow, args } : { ph: "t", ...flow, args })
    }
  }

  private nameTracks(replica: Replica): void {
    const { device } = replica.config.costModel.costs.calibration
    const named = { ...trackOf(replica), ts: 0 }
    this.events.push({
      ph: "M",
      name: "process_name",
      ...named,
      args: { name: `replica ${replica.index} (${device})` },
    })
    this.events.push({ ph: "M", name: "thread_name", ...named, args: { name: "device" } })
  }
}

const trackOf = ({ index }: Replica) => ({ pid: index + 1, tid: index + 1 })
