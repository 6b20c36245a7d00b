import type { FinishAction, SelectionAction, TokenList } from "@uniprefill/scheduler/Actions"
import type { Request } from "@uniprefill/scheduler/Request"
import { FailureReason, SelectionFlag, type StepResult } from "@uniprefill/scheduler/StepResult"
import { EngineError } from "./Engine.ts"
import type { EngineMetrics } from "./EngineMetrics.ts"
import type { Generation } from "./Generation.ts"

export interface PublicationOptions {
  readonly metrics: EngineMetrics
  /** Output tokens that a reader may leave unread. */
  readonly maxUnreadTokens: number
  /** Called when an answer has ended and its readers will be told so; returns whether no answer to its prompt is left. */
  readonly ended: (generation: Generation) => boolean
  /** Called in the microtask that tells readers. */
  readonly told: () => void
  /** Time between two tellings of readers, in ms; 0 tells them of every step. */
  readonly streamIntervalMs: number
}

/**
 * What steps bring becomes output of generations, and readers are told of it.
 *
 * Readers run as fibers of their own, in a later microtask and never in the middle of a change here. Each event that they
 * send costs more than everything else about its token, so where steps follow each other faster than
 * {@link PublicationOptions.streamIntervalMs}, an event carries the tokens of several. First tokens and ends never wait.
 */
export class Publication {
  private readonly options: PublicationOptions
  private readonly generations = new Map<number, Generation>()
  /** Generations that got a token, or ended, since {@link settle}. */
  private readonly touched = new Set<Generation>()
  /** Those whose readers are to be told in the next microtask. */
  private readonly toTell = new Set<Generation>()
  private telling = false
  /** Readers have just been told: they wait for what follows, but for first tokens and ends. */
  private rest: NodeJS.Timeout | null = null

  constructor(options: PublicationOptions) {
    this.options = options
  }

  /** Generations that have not ended. */
  get size(): number {
    return this.generations.size
  }

  add(generation: Generation): void {
    this.generations.set(generation.scheduled.id, generation)
  }

  /** Those that have not ended. */
  running(): ReadonlyArray<Generation> {
    return [...this.generations.values()]
  }

  /** Undefined for what has ended. */
  of(request: Request): Generation | undefined {
    return this.generations.get(request.id)
  }

  /** Log-probabilities of a step whose tokens follow. `requestAt` says who has a slot, before the step is committed. */
  readLogprobs({ logprobs, promptLogprobs }: StepResult, requestAt: (slot: number) => Request | null): void {
    const generationAt = (slot: number) => {
      const request = requestAt(slot)
      return request === null ? undefined : this.of(request)
    }
    for (let i = 0; i < logprobs.length;) {
      const count = logprobs.data[i + 1]!
      const generation = generationAt(logprobs.data[i]!)
      if (generation !== undefined) generation.stepLogprobs = entriesOf(logprobs.data, i + 2, count)
      i += 2 + 2 * count
    }
    for (let i = 0; i < promptLogprobs.length;) {
      const count = promptLogprobs.data[i + 2]!
      const generation = generationAt(promptLogprobs.data[i]!)
      generation?.promptRow(promptLogprobs.data[i + 1]!, entriesOf(promptLogprobs.data, i + 3, count))
      i += 3 + 2 * count
    }
  }

  selected(selections: ReadonlyArray<SelectionAction>): void {
    for (const { request, segment, kept, flags } of selections) {
      const before = request.keptRows[segment]!
      const isFallback = (flags & SelectionFlag.fallback) !== 0
      this.options.metrics.selected(segment, before, kept, request.promptLength, isFallback)
    }
  }

  /** Takes the tokens of a step; returns those that completed a stop string. */
  accept(tokens: TokenList, nowMicros: number): ReadonlyArray<Generation> {
    const stopped: Array<Generation> = []
    for (let i = 0; i < tokens.length; i++) {
      const generation = this.of(tokens.requests[i]!)
      if (generation === undefined) continue
      if (generation.firstTokenMicros < 0) generation.firstTokenMicros = nowMicros
      if (generation.accept(tokens.tokens.data[i]!, tokens.flags.data[i]!)) stopped.push(generation)
      this.touched.add(generation)
    }
    return stopped
  }

  finished(all: ReadonlyArray<FinishAction>, lastFailure: string | null, nowMicros: number): void {
    for (const { request, reason, failure } of all) {
      const generation = this.of(request)
      // What was queued of a request that was then refused has none.
      if (generation === undefined) continue
      this.generations.delete(request.id)
      this.touched.add(generation)
      if (failure === FailureReason.nonFinite) generation.corrupt = true
      if (reason === "error")
        generation.fail(failed(failureText(failure, generation) ?? lastFailure ?? "the executor failed"))
      else generation.complete(reason, nowMicros)
      const isLast = this.options.ended(generation)
      this.options.metrics.finished(generation, generation.finished?.reason ?? reason, isLast)
    }
  }

  /** Fails every generation: nothing more comes of any. */
  failAll(detail: string): void {
    for (const generation of this.generations.values()) {
      generation.fail(failed(detail))
      this.touched.add(generation)
      this.options.metrics.finished(generation, "error", this.options.ended(generation))
    }
    this.generations.clear()
  }

  /** Measures what each generation took in this step; returns how many tokens they are. */
  countTokens(nowMicros: number): number {
    let tokens = 0
    for (const generation of this.touched) tokens += this.countOf(generation, nowMicros)
    return tokens
  }

  /** Generations that got a token, or ended, since the last {@link settle}. */
  get changed(): ReadonlySet<Generation> {
    return this.touched
  }

  /** After a change: sees that readers are told what is new. Returns those that have left too much unread, which have failed. */
  settle(): ReadonlyArray<Generation> {
    const { maxUnreadTokens } = this.options
    const slow: Array<Generation> = []
    for (const generation of this.touched) {
      this.toTell.add(generation)
      if (generation.unreadTokens <= maxUnreadTokens || generation.ended || generation.waitedFor) continue
      const detail = `${generation.unreadTokens} output tokens have not been read; the limit is ${maxUnreadTokens}`
      generation.fail(new EngineError({ reason: "SlowReader", field: null, detail }))
      slow.push(generation)
    }
    this.touched.clear()
    if (!this.telling) {
      this.telling = true
      void Promise.resolve().then(() => this.tell())
    }
    return slow
  }

  private tell(): void {
    this.telling = false
    const resting = this.rest !== null
    let told = 0
    for (const generation of this.toTell) {
      if (resting && generation.isTold && !generation.ended) continue
      this.toTell.delete(generation)
      generation.isTold = true
      generation.publish()
      told++
    }
    this.options.told()
    const { streamIntervalMs } = this.options
    if (resting || told === 0 || streamIntervalMs === 0) return
    this.rest = setTimeout(() => {
      this.rest = null
      if (this.toTell.size > 0) this.tell()
    }, streamIntervalMs).unref()
  }

  private countOf(generation: Generation, nowMicros: number): number {
    const tokens = generation.fresh
    if (tokens === 0) return 0
    if (generation.lastTokenMicros < 0) this.options.metrics.firstToken(generation)
    else this.options.metrics.nextTokens(nowMicros - generation.lastTokenMicros, tokens)
    generation.lastTokenMicros = nowMicros
    generation.fresh = 0
    return tokens
  }
}

const failed = (detail: string) => new EngineError({ reason: "Failed", field: null, detail })

const failureText = (failure: number, { outputs }: Generation): string | null => {
  if (failure === FailureReason.nonFinite) {
    return `the logits of output token ${outputs.length} hold a NaN or an infinity`
  }
  return failure === FailureReason.grammarEnd ? `the grammar allows no output token ${outputs.length}` : null
}

const floats = new Float32Array(1)
const bits = new Int32Array(floats.buffer)

const entriesOf = (data: Int32Array, at: number, count: number): Array<readonly [token: number, logprob: number]> =>
  Array.from({ length: count }, (_, n) => {
    bits[0] = data[at + 1 + 2 * n]!
    return [data[at + 2 * n]!, floats[0]!] as const
  })
