import type { FinishReason, Request } from "@uniprefill/scheduler/Request"
import { Random } from "@uniprefill/units/Random"
import type { Change } from "./Change.ts"
import { EventQueue } from "./EventQueue.ts"
import { RequestLog, RequestStatus } from "./metrics/RequestLog.ts"
import { RunCounters } from "./metrics/RunCounters.ts"
import { Replica, type StepRecord } from "./Replica.ts"
import { Router } from "./Router.ts"
import { driverConfig, type Setup } from "./Setup.ts"
import { addOwnedSlabs } from "./metrics/OccupancyLog.ts"
import { TenantQueues } from "./metrics/TenantQueues.ts"
import { TokenTimes } from "./metrics/TokenTimes.ts"
import { PageKeys } from "./workload/PageKeys.ts"
import type { Workload } from "./workload/Workload.ts"

/** Kinds of events; at one time the lower comes first. */
const EventClass = {
  stepEnded: 0,
  recovered: 1,
  arrived: 2,
  submitted: 3,
  givenUp: 4,
  timedOut: 5,
  sampled: 6,
  changed: 7,
} as const

/** Looks at a run without changing it. */
export interface Observer {
  readonly stepStarted?: (replica: Replica, step: StepRecord, endMicros: number) => void
  /** After all events of an instant, and the plans that followed from them. */
  readonly instant?: (simulation: Simulation) => void
  readonly selected?: (row: number, segment: number, kept: number) => void
}

/**
 * A run: a workload offered to replicas under a virtual clock. The clock jumps from event to event; at each instant all
 * events are applied, then every replica may plan.
 */
export class Simulation {
  readonly setup: Setup
  readonly workload: Workload
  readonly log: RequestLog
  readonly counters: RunCounters
  readonly replicas: ReadonlyArray<Replica>
  readonly tenantQueues: TenantQueues
  now = 0
  private readonly queue = new EventQueue()
  private readonly router: Router
  private readonly observer: Observer
  private readonly cancels: Random
  /** Null where nothing is cached. */
  private readonly pageKeys: PageKeys | null
  /** The rows that wait for a row's end. */
  private readonly followers = new Map<number, Array<number>>()
  /** The loop's id of a row that was accepted; 0 for others. */
  private readonly requestId: Int32Array
  /** Rows that wait for no other, in order of arrival. */
  private readonly arrivals: Int32Array
  private arrivalsScheduled = 0
  /** Rows that have arrived. */
  private arrived = 0
  private open = 0
  /** Scratch of a sample: slabs by table. */
  private readonly ownedSlabs: Array<number>
  /** Of each replica. */
  private readonly tokenTimes: ReadonlyArray<TokenTimes>

  /** Fails with SetupError when the setup cannot be. */
  constructor(setup: Setup, workload: Workload, observer: Observer = {}) {
    this.setup = setup
    this.workload = workload
    this.observer = observer
    this.log = new RequestLog(workload)
    const config = driverConfig(setup)
    this.tenantQueues = new TenantQueues(workload)
    const { segments, tables } = config.layout
    this.counters = new RunCounters(segments.length, tables.length, this.tenantQueues.counts.length)
    this.ownedSlabs = config.layout.tables.map(() => 0)
    this.router = new Router(setup.router, workload)
    this.cancels = new Random(setup.seed, "cancellations")
    this.pageKeys = setup.engine.prefixCaching ? new PageKeys(workload, setup.engine.pageSize) : null
    this.requestId = new Int32Array(workload.count)
    this.replicas = Array.from(
      { length: setup.replicas },
      (_, index) =>
        new Replica(index, setup, config, workload.outputTokens, {
          tokens: (replica, tokens) => this.tokenTimes[replica.index]!.add(tokens, this.now),
          selected: (row, segment, kept) => this.observer.selected?.(row, segment, kept),
          finished: (row, request, reason) => this.onFinished(row, request, reason),
          stepStarted: (replica, step, endMicros) => this.onStepStarted(replica, step, endMicros),
        }),
    )
    this.tokenTimes = this.replicas.map(
      (replica) => new TokenTimes(this.log, this.counters.gaps, (id) => replica.rowOf(id)),
    )
    for (let row = 0; row < workload.count; row++) {
      const after = workload.after[row]!
      if (after < 0) continue
      const others = this.followers.get(after)
      if (others === undefined) this.followers.set(after, [row])
      else others.push(row)
    }
    this.arrivals = Int32Array.from(
      Array.from(workload.after, (after, row) => (after < 0 ? row : -1)).filter((row) => row >= 0),
    )
    const times = workload.arrivalMicros
    this.arrivals.sort((a, b) => times[a]! - times[b]! || a - b)
    this.scheduleArrival()
    this.queue.push(0, EventClass.sampled, 0, 0)
    for (const [index, { atMicros, slow }] of (setup.changes ?? []).entries()) {
      this.queue.push(atMicros, EventClass.changed, index, 1)
      if (slow !== undefined) this.queue.push(slow.untilMicros, EventClass.changed, index, 0)
    }
  }

  /** Whether anything is left to happen. */
  get isDone(): boolean {
    const { untilMicros } = this.setup
    return (
      (this.open === 0 && this.arrived >= this.workload.count) || (untilMicros > 0 && this.queue.nextTime > untilMicros)
    )
  }

  /** Requests that have ended, of all. */
  get ended(): number {
    return this.arrived - this.open
  }

  /** Goes on until done, or for `instants` instants of the virtual clock. */
  advance(instants = Number.POSITIVE_INFINITY): void {
    for (let i = 0; i < instants && !this.isDone; i++) {
      // The next sample is always due; alone it can change nothing.
      if (this.queue.size <= 1) throw new Error(`${this.open} requests are open and nothing is left to happen`)
      this.instant()
    }
    for (const times of this.tokenTimes) times.flush()
  }

  /** After the last answer: lets the steps in flight end, and what follows from them, so that nothing is owned any more. */
  settle(): void {
    while (this.replicas.some((replica) => replica.stepsInFlight > 0)) this.instant()
    for (const times of this.tokenTimes) times.flush()
  }

  private instant(): void {
    const { queue, replicas } = this
    const now = queue.nextTime
    this.now = now
    while (queue.nextTime === now) {
      queue.pop()
      this.handle(queue.class, queue.first, queue.second)
    }
    for (const replica of replicas) replica.tick(now)
    this.observer.instant?.(this)
  }

  /** Hash of all plans of all replicas: equal hashes, equal decisions. */
  get hash(): string {
    return this.replicas.map((replica) => replica.hash.digest).join("-")
  }

  private handle(eventClass: number, first: number, second: number): void {
    switch (eventClass) {
      case EventClass.stepEnded:
        return this.onStepEnded(this.replicas[first]!, second)
      case EventClass.recovered:
        return this.replicas[first]!.recover(this.now)
      case EventClass.arrived:
        return this.onArrival(first)
      case EventClass.submitted:
        return this.onSubmission(first)
      case EventClass.givenUp:
        return this.giveUp(first, RequestStatus.aborted)
      case EventClass.timedOut:
        return this.giveUp(first, RequestStatus.timedOut)
      case EventClass.changed:
        return this.onChange(this.setup.changes![first]!, second === 1)
      default:
        return this.sample()
    }
  }

  // ------------------------------------------------------------------------------------------------- requests

  /** The next row that waits for no other, one event ahead of time. */
  private scheduleArrival(): void {
    const row = this.arrivals[this.arrivalsScheduled]
    if (row === undefined) return
    this.arrivalsScheduled++
    this.queue.push(this.workload.arrivalMicros[row]!, EventClass.arrived, row, 0)
  }

  private onArrival(row: number): void {
    const { workload, log, setup, now, queue } = this
    const { host, faults } = setup
    this.open++
    this.arrived++
    log.arrival[row] = now
    log.status[row] = RequestStatus.unfinished
    const promptTokens = workload.promptTokens[row]!
    const delay = Math.round(host.admissionMicros + host.tokenizeMicrosPerToken * promptTokens)
    queue.push(now + delay, EventClass.submitted, row, 0)
    if (setup.timeoutMicros > 0) queue.push(now + setup.timeoutMicros, EventClass.timedOut, row, 0)
    if (faults.cancelled > 0 && this.cancels.unit() < faults.cancelled) {
      queue.push(now + this.cancels.below(faults.cancelWithinMicros + 1), EventClass.givenUp, row, 0)
    }
    if (workload.after[row]! < 0) this.scheduleArrival()
  }

  private onSubmission(row: number): void {
    const { workload, log, router, replicas, now } = this
    if (log.status[row] !== RequestStatus.unfinished) return
    const index = router.choose(row, replicas)
    log.replica[row] = index
    const maxTokens = workload.maxTokens[row]!
    const outcome = replicas[index]!.submit(
      row,
      {
        promptLength: workload.promptTokens[row]!,
        maxTokens: maxTokens < 0 ? undefined : maxTokens,
        drops: true,
        priority: workload.priority[row]!,
        tenant: workload.tenants[workload.tenant[row]!],
        deadlineMicros: this.deadline(row),
        pageKeys: this.pageKeys?.of(row),
      },
      now,
    )
    if (outcome._tag === "Queued") {
      this.requestId[row] = outcome.request.id
      return
    }
    this.close(row, outcome._tag === "QueueFull" ? RequestStatus.rejected : RequestStatus.tooLong)
  }

  private deadline(row: number): number | undefined {
    const target = this.workload.ttftSloMicros[row]! || this.setup.ttftTargetMicros
    return target === 0 ? undefined : this.log.arrival[row]! + target
  }

  /** The client is gone: what the loop holds of the request ends. */
  private giveUp(row: number, status: number): void {
    if (this.log.status[row] !== RequestStatus.unfinished) return
    const id = this.requestId[row]!
    if (id === 0) return this.close(row, status)
    this.givingUp = status
    this.replicas[this.log.replica[row]!]!.abort(id)
  }

  private givingUp: number = RequestStatus.aborted

  private onFinished(row: number, request: Request, reason: FinishReason): void {
    const { log, counters } = this
    log.outputs[row] = request.outputs
    log.firstScheduled[row] = request.account.firstScheduledMicros
    log.preemptions[row] = request.account.preemptions
    log.cachedTokens[row] = request.account.cachedTokens
    log.lowered[row] = request.account.isLowered ? 1 : 0
    const sets = request.keptRows
    if (request.drops && sets.length === counters.keptRows.length) {
      log.keptRows[row] = sets[sets.length - 1]!
      counters.droppingPromptRows += request.promptLength
      for (let s = 0; s < sets.length; s++) counters.keptRows[s]! += sets[s]!
    }
    this.close(row, statusOf(reason, this.givingUp))
  }

  private close(row: number, status: number): void {
    const { workload, log, queue, now } = this
    log.status[row] = status
    this.open--
    const waiting = this.followers.get(row)
    if (waiting === undefined) return
    this.followers.delete(row)
    for (const next of waiting) {
      queue.push(
        Math.max(now + workload.thinkMicros[next]!, workload.arrivalMicros[next]!),
        EventClass.arrived,
        next,
        0,
      )
    }
  }

  // -------------------------------------------------------------------------------------------------- changes

  private onChange(change: Change, begins: boolean): void {
    const { abort, slow } = change
    if (slow !== undefined) {
      for (const replica of this.replicas) {
        if (slow.replica === null || slow.replica === replica.index) replica.slowFactor = begins ? slow.factor : 1
      }
    }
    if (!begins) return
    for (const replica of this.replicas) replica.change(change)
    for (const row of abort)
      if (this.log.status[row] === RequestStatus.unfinished) this.giveUp(row, RequestStatus.aborted)
  }

  // ---------------------------------------------------------------------------------------------------- steps

  private onStepStarted(replica: Replica, step: StepRecord, endMicros: number): void {
    const { counters, queue } = this
    const { load } = replica.device
    counters.steps++
    if (load.decodeRows + load.items > 0) {
      counters.computingSteps++
      if (replica.config.costModel.isOutside(load)) counters.stepsOutsideCalibration++
    }
    counters.busyMicros += step.deviceMicros
    counters.maxStepMicros = Math.max(counters.maxStepMicros, step.deviceMicros)
    counters.work.add(load)
    this.observer.stepStarted?.(replica, step, endMicros)
    queue.push(endMicros, EventClass.stepEnded, replica.index, step.plan.stepId)
  }

  private onStepEnded(replica: Replica, stepId: number): void {
    // A failure before it has taken this step with it.
    if (replica.driver.stepInFlight !== stepId || replica.isDown) return
    if (!replica.stepEnded()) return
    this.counters.stepsFailed++
    this.queue.push(this.now + Math.max(1, this.setup.faults.recoveryMicros), EventClass.recovered, replica.index, 0)
  }

  private sample(): void {
    const { counters, ownedSlabs } = this
    let waiting = 0
    let running = 0
    let used = 0
    let cached = 0
    let idle = 0
    ownedSlabs.fill(0)
    for (const { driver, config } of this.replicas) {
      const { pool, tree } = driver.scheduler.memory
      waiting += driver.waiting
      running += driver.running
      used += pool.used - tree.idleSlabs
      cached += tree.slabs - tree.idleSlabs
      idle += tree.idleSlabs
      addOwnedSlabs(driver.scheduler, config.layout, ownedSlabs)
    }
    counters.occupancy.add(
      this.now,
      { waiting, running, used, cached, idle },
      ownedSlabs,
      this.tenantQueues.count(this.replicas),
    )
    this.queue.push(counters.occupancy.nextTime, EventClass.sampled, 0, 0)
  }
}

const statusOf = (reason: FinishReason, givingUp: number): number =>
  reason === "abort" ? givingUp : reason === "error" ? RequestStatus.failed : RequestStatus.completed
