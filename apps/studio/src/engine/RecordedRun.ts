import { decodeRecording } from "@uniprefill/recording/RecordingCodec"
import type { Recording } from "@uniprefill/recording/RecordingCodec"
import { replay } from "@uniprefill/recording/Replay"
import type { FinishReason, Request } from "@uniprefill/scheduler/Request"
import { RequestStatus } from "@uniprefill/simulator/metrics/RequestLog"
import type { StepRecord } from "@uniprefill/simulator/Replica"
import { Checkpoints } from "@uniprefill/simulator/timetravel/Checkpoints"
import { float64s, GrowingColumn, uint8s } from "@uniprefill/simulator/timetravel/GrowingColumn"
import type { RequestColumns } from "@uniprefill/simulator/timetravel/RequestColumns"
import { LoopRecorder } from "@uniprefill/simulator/timetravel/LoopRecorder"
import { requestDetail, stepState } from "@uniprefill/simulator/timetravel/StepState"
import type { Moment, Progress, RunMeta, RunResult } from "../protocol/Protocol.ts"
import { textOf } from "./Inputs.ts"
import { type LookBack, paced, type Timing } from "./LookBack.ts"
import { RecordedLoop } from "./RecordedLoop.ts"
import { memoryNames } from "./SimulatedRun.ts"

/** A recorded production run, replayed so that every step can be looked at. */
export class RecordedRun implements LookBack {
  private readonly name: string
  private readonly recording: Recording
  private readonly loop: RecordedLoop
  private readonly recorder: LoopRecorder
  private readonly checkpoints: Checkpoints
  private readonly requests = new RecordedRequests()
  private wanted = -1
  private wantedRow = -1
  private found: Moment | null = null
  private isReplaying = false

  /** Fails with RecordingError naming the line, or with RangeError for a policy that is not here. */
  static async open(name: string, file: Blob): Promise<RecordedRun> {
    return new RecordedRun(name, decodeRecording(await textOf(name, file)))
  }

  constructor(name: string, recording: Recording) {
    this.name = name
    this.recording = recording
    const { header, events } = recording
    const { layout } = header
    this.recorder = new LoopRecorder(1, layout.segments.length, layout.tables.length)
    const listener = {
      submitted: (request: Request, now: number) => this.ifFirst(() => this.requests.submitted(request, now)),
      stepStarted: (step: StepRecord, end: number, now: number) => this.onStep(step, end, now),
      token: (request: Request, at: number) => this.ifFirst(() => this.requests.token(request, at)),
      finished: (request: Request, reason: FinishReason, at: number) =>
        this.ifFirst(() => this.requests.finished(request, reason, at)),
    }
    this.loop = new RecordedLoop(header, events, listener)
    const constants = [header, listener, this.loop.config, this.loop.inputs]
    this.checkpoints = new Checkpoints(this.loop, constants)
  }

  get progress(): Progress {
    const { loop } = this
    return {
      done: loop.taken,
      total: loop.total,
      steps: loop.steps,
      nowMicros: loop.now,
      waiting: loop.driver.waiting,
      running: loop.driver.running,
    }
  }

  async run(isStopped: () => boolean, onProgress: (progress: Progress) => void): Promise<RunResult> {
    const { loop, checkpoints } = this
    const timing = await paced(
      {
        advance: (events) => loop.advance(events),
        isDone: () => loop.isDone,
        spread: () => checkpoints.spread,
        checkpoint: () => checkpoints.take(loop.steps),
        progress: () => this.progress,
      },
      isStopped,
      onProgress,
    )
    if (loop.fault !== "" && loop.steps === 0)
      throw new RangeError(`${this.name}: this build's serving loop cannot follow it: ${loop.fault}`)
    return this.result(timing)
  }

  at(index: number, row: number): Moment {
    const { loop, recorder } = this
    if (!(index >= 0 && index < recorder.steps)) throw new RangeError(`step ${index} of ${recorder.steps}`)
    this.isReplaying = true
    this.wanted = index
    this.wantedRow = row
    this.found = null
    this.checkpoints.approach(index, loop.steps)
    while (this.found === null) loop.advance(1)
    this.wanted = -1
    return this.found
  }

  /** What is told again in a replay is known. */
  private ifFirst(act: () => void): void {
    if (!this.isReplaying) act()
  }

  private onStep(step: StepRecord, endMicros: number, nowMicros: number): void {
    const { loop } = this
    if (!this.isReplaying) this.recorder.stepStarted(loop, step, endMicros, nowMicros)
    if (loop.steps - 1 !== this.wanted) return
    this.found = {
      state: stepState(loop, step, endMicros, nowMicros),
      detail: this.wantedRow < 0 ? null : requestDetail(loop, this.wantedRow),
    }
  }

  private result(timing: Timing): RunResult {
    const { loop, name, recording } = this
    const { header, events } = recording
    const { difference, plans } = replay(header, events)
    this.checkpoints.seal()
    const verdict =
      difference === null
        ? `identical: ${plans} plans`
        : `DIFFERS at step ${difference.step}${difference.section === null ? "" : `, ${difference.section}`}: ${difference.detail}`
    return {
      name,
      hash: loop.hash.digest,
      complete: loop.isDone && loop.fault === "",
      ended: loop.fault !== "" ? `this build cannot follow it beyond ${loop.fault}` : loop.isDone ? "" : "stopped",
      about: [
        `recording  ${name}, made by ${header.code}`,
        `model      ${header.spec.architecture}, ${header.spec.layers.length} layers`,
        `policy     ${header.policy.name}; costs of ${header.costs.calibration.device}`,
        `replay     ${verdict}`,
      ],
      reproduction: `uniprefill-sim replay ${name}`,
      provenance: {
        device: "as recorded",
        rates: "recorded",
        ratesNote: "as recorded",
        link: null,
        keep: header.schedule.dropLayers.length === 0 ? "served dense" : "recorded: the model's own selections",
        accuracy: "unknown",
        lowered: null,
        assumptions: ["a step begins when it was planned, or when the step before it ended"],
      },
      meta: metaOf(recording),
      summary: null,
      report: null,
      itlCdf: [],
      json: { format: "uniprefill-replay", version: 1, plans, difference, plan_hash: loop.hash.digest },
      timeline: this.recorder.finish(),
      requests: this.requests.finish(),
      ...timing,
    }
  }
}

const metaOf = ({ header }: Recording): RunMeta => {
  const { layout, limits, policy, schedule } = header
  return {
    origin: "recorded",
    replicas: 1,
    devices: 1,
    segmentLayers: layout.segments.map(({ firstLayer, lastLayer }) => lastLayer - firstLayer + 1),
    memoryNames: memoryNames(layout),
    slabs: limits.slabs,
    stepBudgetMicros: limits.stepBudgetMicros,
    idleStepBudgetMicros: limits.idleStepBudgetMicros,
    tokenBudget: policy.options["maxNumBatchedTokens"] ?? null,
    policy: policy.name,
    block: schedule.block,
    seed: 0,
  }
}

const int32s = () => new GrowingColumn((length) => new Int32Array(length))

/** What became of recorded requests, by their number. */
class RecordedRequests {
  private readonly arrival = float64s()
  private readonly promptTokens = int32s()
  private readonly priority = int32s()
  private readonly tenant = int32s()
  private readonly tenants = new Map<string, number>()
  private readonly status = uint8s()
  private readonly seen: Array<{
    scheduled: number
    first: number
    last: number
    gap: number
    outputs: number
    kept: number
    cached: number
    preemptions: number
  }> = []

  submitted(request: Request, now: number): void {
    const { name } = request.account.tenant
    if (!this.tenants.has(name)) this.tenants.set(name, this.tenants.size)
    this.arrival.push(now)
    this.promptTokens.push(request.promptLength)
    this.priority.push(request.priority)
    this.tenant.push(this.tenants.get(name)!)
    this.status.push(RequestStatus.unfinished)
    this.seen.push({ scheduled: -1, first: -1, last: -1, gap: 0, outputs: 0, kept: -1, cached: 0, preemptions: 0 })
  }

  token({ id }: Request, at: number): void {
    const seen = this.seen[id - 1]!
    if (seen.first < 0) seen.first = at
    else seen.gap = Math.max(seen.gap, at - seen.last)
    seen.last = at
    seen.outputs++
  }

  finished(request: Request, reason: FinishReason, _at: number): void {
    const seen = this.seen[request.id - 1]!
    seen.scheduled = request.account.firstScheduledMicros
    seen.outputs = request.outputs
    seen.kept = request.drops && request.keptRows.length > 1 ? request.keptRows.at(-1)! : -1
    seen.cached = request.account.cachedTokens
    seen.preemptions = request.account.preemptions
    const status =
      reason === "abort" ? RequestStatus.aborted : reason === "error" ? RequestStatus.failed : RequestStatus.completed
    this.status.set(request.id - 1, status)
  }

  /** What became of them, which is given away. */
  finish(): RequestColumns {
    const { seen } = this
    const floats = (of: (one: (typeof seen)[number]) => number) => Float64Array.from(seen, of)
    const ints = (of: (one: (typeof seen)[number]) => number) => Int32Array.from(seen, of)
    return {
      count: seen.length,
      arrival: this.arrival.take(),
      firstScheduled: floats((one) => one.scheduled),
      firstToken: floats((one) => one.first),
      lastToken: floats((one) => one.last),
      maxGap: floats((one) => one.gap),
      promptTokens: this.promptTokens.take(),
      outputs: ints((one) => one.outputs),
      status: this.status.take(),
      replica: new Uint16Array(seen.length),
      keptRows: ints((one) => one.kept),
      cachedTokens: ints((one) => one.cached),
      preemptions: ints((one) => one.preemptions),
      priority: this.priority.take(),
      tenant: this.tenant.take(),
      tenants: [...this.tenants.keys()],
    }
  }
}
