import type { RequestContent } from "@uniprefill/executor/contract/Executor"
import { type DropSchedule, pToQ32 } from "@uniprefill/model/DropSchedule"
import type { FinishReason, Request } from "@uniprefill/scheduler/Request"
import { TokenFlag } from "@uniprefill/scheduler/StepResult"
import type { Detokenizer } from "@uniprefill/tokenizer/Detokenizer"
import { Cause, Effect, type Pull, Stream } from "effect"
import { type AnswerStream, EngineError, type GenerateEvent, type GenerateRequest, type TakeEvents } from "./Engine.ts"
import type { PageKeys } from "./PageKeys.ts"
import { StopStrings } from "./StopStrings.ts"

type Logprobs = ReadonlyArray<readonly [token: number, logprob: number]>
type OutputPull = Pull.Pull<readonly [GenerateEvent, ...Array<GenerateEvent>], EngineError>

/**
 * One answer on its way through the engine: its content for the executor, its output as text, and the events that its
 * reader has not taken.
 *
 * Unread output is one growing event, not a queue of them, so a reader that comes back gets everything at once. The loop
 * calls `accept` for each token, then `publish` once a step.
 */
export class Generation {
  readonly request: GenerateRequest
  /** Which of the request's answers this is, from 0. */
  readonly answer: number
  /** The scheduler's view; set once the request has been accepted. */
  scheduled!: Request
  /** Of the answers that are computed together, the one whose prefill is that of all. */
  leader!: Request
  readonly outputs: Array<number> = []
  /** Tokens accepted in the step being committed. */
  fresh = 0
  /** Log-probabilities that the step being committed brought for this request's token. */
  stepLogprobs: Logprobs = []
  /** Its logits held a NaN or an infinity. */
  corrupt = false
  /** The stop string that ended the text. */
  stopString: string | null = null
  /** Whether its reader has been told of anything. */
  isTold = false
  /** µs of the first token and of the last publication; −1 before. */
  firstTokenMicros = -1
  lastTokenMicros = -1

  /** The chain up to the prompt's end, which all answers share. */
  private readonly promptKeys: PageKeys | null
  /** The same with this answer's output. */
  private outputKeys: PageKeys | null = null
  /** Output tokens that page keys cover. */
  private hashedOutputs = 0
  private readonly detokenizer: Detokenizer
  private readonly stops: StopStrings
  private stopToken: number | null = null
  private unread: { tokens: Array<number>; text: string; logprobs: Array<Logprobs> } = emptyOutput()
  private readonly promptLogprobs: Array<Logprobs> = []
  private promptTold = false
  private ending: GenerateEvent | EngineError | null = null
  /** A reader that waits: of the stream, or of {@link listen}. */
  private waiter: (() => void) | null = null

  /** `promptKeys` has taken the prompt; null where prefixes are not cached. */
  constructor(request: GenerateRequest, answer: number, detokenizer: Detokenizer, promptKeys: PageKeys | null = null) {
    this.request = request
    this.answer = answer
    this.promptKeys = promptKeys
    this.detokenizer = detokenizer
    this.stops = new StopStrings(request.stop)
  }

  /** What the executor is told before the answer gets a slot. `sloP`: p of requests that the scheduler has lowered. */
  content(schedule: DropSchedule, sloP = 1): RequestContent {
    const { request, scheduled, leader, outputs } = this
    const { sampling } = request
    const tokens = new Int32Array(request.prompt.length + outputs.length)
    tokens.set(request.prompt)
    tokens.set(outputs, request.prompt.length)
    const { minP = 0, p = schedule.dropLayers.map((drop) => drop.p) } = request
    const maxP = leader.account.isLowered ? sloP : 1
    return {
      tokens,
      promptLength: request.prompt.length,
      pQ32: scheduled.drops ? p.map((own) => pToQ32(Math.min(Math.max(own, minP), maxP))) : null,
      bitmaps: scheduled.bitmaps,
      sampling: { ...sampling, seed: BigInt.asUintN(64, sampling.seed + BigInt(this.answer)) },
      returnLogits: false,
      promptLogprobs: request.promptLogprobs ?? -1,
    }
  }

  /** What prompt row `row` says of the next token. A request that starts over says it again. */
  promptRow(row: number, logprobs: Logprobs): void {
    if (this.outputs.length === 0) this.promptLogprobs[row] = logprobs
  }

  /** Tokens of the prompt and the output, from one place to before another. */
  tokens(from: number, to: number): Int32Array {
    const { prompt } = this.request
    const tokens = new Int32Array(to - from)
    for (let i = from; i < to; i++) tokens[i - from] = i < prompt.length ? prompt[i]! : this.outputs[i - prompt.length]!
    return tokens
  }

  /** Keys of the pages filled by output tokens since the last call. The token sampled last is in no page yet. */
  filledPageKeys(): ReadonlyArray<string> {
    const { outputs, hashedOutputs, promptKeys } = this
    const keys = this.outputKeys ?? promptKeys
    if (keys === null || outputs.length - 1 - hashedOutputs < keys.missing) return none
    this.outputKeys ??= keys.copy()
    this.hashedOutputs = outputs.length - 1
    return this.outputKeys.push(Int32Array.from(outputs.slice(hashedOutputs, -1)))
  }

  /** Takes an output token. After a stop string nothing more is taken: returns whether this token completed one. */
  accept(token: number, flags: number): boolean {
    if (this.stopString !== null) return false
    const { request, unread, stops } = this
    this.outputs.push(token)
    this.fresh++
    unread.tokens.push(token)
    if (request.sampling.logprobs >= 0) unread.logprobs.push(this.stepLogprobs)
    if ((flags & TokenFlag.stop) !== 0) {
      this.stopToken = token
      if (!request.includeStop) return false
    }
    const piece = this.detokenizer.push(token)
    if (this.outputs.length <= request.sampling.minTokens) {
      unread.text += piece
      return false
    }
    return this.append(stops.push(piece))
  }

  /** Ends the text: nothing is held back any more. A stop string that only the flush completes counts. */
  complete(reason: FinishReason, nowMicros: number): void {
    if (this.ending !== null) return
    if (reason === "error") throw new TypeError("a failed request is ended with fail")
    if (this.stopString === null) {
      const found = this.append(this.stops.push(this.detokenizer.flush()))
      if (!found) this.unread.text += this.stops.flush()
    }
    const { request, scheduled, leader, stopString, stopToken } = this
    const { keptRows, promptLength } = scheduled
    const stopped = stopString !== null || stopToken !== null
    this.ending = {
      _tag: "Finished",
      reason: stopped && reason !== "abort" ? "stop" : reason,
      stopReason: stopString ?? stopToken,
      promptTokens: request.prompt.length,
      completionTokens: this.outputs.length,
      cachedTokens: leader.account.cachedTokens,
      lowered: leader.account.isLowered,
      kept: keptRows.map((rows) => rows / promptLength),
      bitmaps: [...scheduled.bitmaps],
      times: {
        arrivedMicros: scheduled.arrivedMicros,
        firstScheduledMicros: leader.account.firstScheduledMicros,
        firstTokenMicros: this.firstTokenMicros,
        finishedMicros: nowMicros,
      },
    }
  }

  fail(error: EngineError): void {
    this.ending ??= error
  }

  get ended(): boolean {
    return this.ending !== null
  }

  /** Whether the output ended as it should, with a Finished event. */
  get finished(): (GenerateEvent & { readonly _tag: "Finished" }) | null {
    return this.ending !== null && this.ending._tag === "Finished" ? this.ending : null
  }

  /** Whether the reader has taken everything and waits for more. */
  get waitedFor(): boolean {
    return this.waiter !== null
  }

  get unreadTokens(): number {
    return this.unread.tokens.length
  }

  /** Wakes the reader if there is something for it. */
  publish(): void {
    const { waiter } = this
    if (waiter === null || !this.hasNews) return
    this.waiter = null
    waiter()
  }

  /** The events, for one reader. */
  readonly events: AnswerStream = Object.assign(
    Stream.fromPull(
      Effect.succeed(
        Effect.suspend((): OutputPull => (this.hasNews ? this.pull() : Effect.flatMap(this.news, () => this.pull()))),
      ),
    ),
    { listen: (take: TakeEvents) => this.listen(take) },
  )

  private readonly news = Effect.callback<void>((resume) => {
    this.waiter = () => resume(Effect.void)
    return this.stopWaiting
  })

  private readonly stopWaiting = Effect.sync(() => {
    this.waiter = null
  })

  private listen(take: TakeEvents): Effect.Effect<void, EngineError> {
    const untilBusy = Effect.callback<Effect.Effect<void> | null, EngineError>((resume) => {
      const feed = () => {
        try {
          while (this.hasNews) {
            const taken = this.take()
            if (taken === "done") return resume(Effect.succeed(null))
            if (taken instanceof EngineError) return resume(Effect.fail(taken))
            const busy = take(taken)
            if (busy !== null) return resume(Effect.succeed(busy))
          }
          this.waiter = feed
        } catch (cause) {
          // A reader's mistake is its own: this runs among the other answers.
          resume(Effect.die(cause))
        }
      }
      feed()
      return this.stopWaiting
    })
    return Effect.flatMap(untilBusy, (busy) => (busy === null ? Effect.void : Effect.andThen(busy, this.listen(take))))
  }

  private pull(): OutputPull {
    const taken = this.take()
    if (taken === "done") return Cause.done()
    return taken instanceof EngineError ? Effect.fail(taken) : Effect.succeed(taken)
  }

  /** Whether there is something to take. */
  private get hasNews(): boolean {
    return this.ending !== null || this.unread.tokens.length > 0 || this.unread.text !== ""
  }

  /** The last output and how it ended come together, so that one message can carry both. Requires: {@link hasNews}. */
  private take(): readonly [GenerateEvent, ...Array<GenerateEvent>] | EngineError | "done" {
    const { unread, ending } = this
    if (unread.tokens.length > 0 || unread.text !== "") {
      this.unread = emptyOutput()
      const output = { _tag: "Output" as const, ...unread, ...this.takePrompt() }
      if (ending?._tag !== "Finished") return [output]
      this.delivered = true
      return [output, ending]
    }
    if (ending === null) throw new TypeError("there is nothing to take")
    if (ending._tag === "EngineError") return ending
    if (this.delivered) return "done"
    this.delivered = true
    return [ending]
  }

  private delivered = false

  /** What was asked for of the prompt's rows, once. */
  private takePrompt(): { readonly promptLogprobs?: ReadonlyArray<Logprobs> } {
    if (this.promptTold || this.promptLogprobs.length === 0) return {}
    this.promptTold = true
    return { promptLogprobs: this.promptLogprobs }
  }

  private append({ text, match }: { readonly text: string; readonly match: string | null }): boolean {
    this.unread.text += match !== null && this.request.includeStop ? text + match : text
    this.stopString = match
    return match !== null
  }
}

const none: ReadonlyArray<string> = []

const emptyOutput = () => ({ tokens: [], text: "", logprobs: [] })
