import { Effect, type Scope } from "effect"
import { Worker } from "node:worker_threads"
import { TokenizerError } from "./TokenizerError.ts"

export interface EncodeRequest {
  readonly id: number
  readonly text: string
  readonly addSpecialTokens: boolean
}

export type EncodeReply =
  | { readonly id: number; readonly tokens: Int32Array; readonly error: null }
  | { readonly id: number; readonly tokens: null; readonly error: string }

export interface EncodeThreadOptions {
  /** Path of tokenizer.json; the thread reads it itself, at its first text. */
  readonly path: string
  /** Texts that may wait behind the one being encoded. */
  readonly maxWaiting: number
}

/** Encodes texts on a thread of its own, in order of arrival, so that a long one does not stall this thread. */
export interface EncodeThread {
  /**
   * Interruption forgets a waiting text. One that is being encoded is run to its end and its tokens thrown away: starting a
   * new thread costs more than the rest of a text.
   *
   * Fails with `QueueFull` when `maxWaiting` texts wait, `ThreadFailed` when the thread died under this text.
   */
  readonly encode: (text: string, addSpecialTokens: boolean) => Effect.Effect<Int32Array, TokenizerError>
}

/** The thread starts with the first text and ends with the scope. */
export const makeEncodeThread = (options: EncodeThreadOptions): Effect.Effect<EncodeThread, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => new Queue(options)),
    (queue) => Effect.promise(() => queue.close()),
  ).pipe(
    Effect.map((queue) => ({
      encode: (text, addSpecialTokens) =>
        Effect.callback<Int32Array, TokenizerError>((resume) => {
          const job = queue.add(text, addSpecialTokens, (outcome) =>
            resume(outcome instanceof TokenizerError ? Effect.fail(outcome) : Effect.succeed(outcome)),
          )
          return Effect.sync(() => job?.cancel())
        }),
    })),
  )

interface Job extends EncodeRequest {
  done: (outcome: Int32Array | TokenizerError) => void
  cancel: () => void
}

/** One text is with the worker at any time; the others wait here, where they can be cancelled. */
class Queue {
  private readonly options: EncodeThreadOptions
  private readonly waiting = new Set<Job>()
  private worker: Worker | undefined
  private running: Job | undefined
  private nextId = 1
  private closed = false

  constructor(options: EncodeThreadOptions) {
    this.options = options
  }

  add(text: string, addSpecialTokens: boolean, done: Job["done"]): Job | undefined {
    const { maxWaiting } = this.options
    if (this.closed) {
      done(failure("ThreadFailed", "the tokenizer has been closed"))
      return undefined
    }
    if (this.running !== undefined && this.waiting.size >= maxWaiting) {
      done(failure("QueueFull", `${this.waiting.size} texts wait to be tokenized, the limit is ${maxWaiting}`))
      return undefined
    }
    const job: Job = {
      id: this.nextId++,
      text,
      addSpecialTokens,
      done,
      cancel: () => {
        this.waiting.delete(job)
        job.done = () => {}
      },
    }
    this.waiting.add(job)
    this.runNext()
    return job
  }

  async close(): Promise<void> {
    this.closed = true
    const jobs = [...this.waiting, ...(this.running === undefined ? [] : [this.running])]
    this.waiting.clear()
    this.running = undefined
    for (const job of jobs) job.done(failure("ThreadFailed", "the tokenizer has been closed"))
    await this.worker?.terminate()
  }

  private runNext(): void {
    if (this.running !== undefined || this.closed) return
    const [job] = this.waiting
    // A thread without work does not keep the process alive.
    if (job === undefined) {
      this.worker?.unref()
      return
    }
    this.waiting.delete(job)
    this.running = job
    this.worker ??= this.start()
    this.worker.ref()
    this.worker.postMessage({
      id: job.id,
      text: job.text,
      addSpecialTokens: job.addSpecialTokens,
    } satisfies EncodeRequest)
  }

  private start(): Worker {
    const worker = new Worker(entry, { workerData: { path: this.options.path }, name: "uniprefill-tokenizer" })
    worker.on("message", (reply: EncodeReply) => {
      if (this.running?.id !== reply.id) return
      this.settle(reply.error === null ? reply.tokens : failure("ThreadFailed", reply.error))
    })
    let cause = "the encoding thread ended"
    worker.on("error", (error) => (cause = `the encoding thread failed: ${String(error)}`))
    worker.on("exit", () => {
      if (this.worker !== worker) return
      this.worker = undefined
      this.settle(failure("ThreadFailed", cause))
    })
    return worker
  }

  private settle(outcome: Int32Array | TokenizerError): void {
    const job = this.running
    this.running = undefined
    job?.done(outcome)
    this.runNext()
  }
}

const failure = (reason: "QueueFull" | "ThreadFailed", detail: string) =>
  new TokenizerError({ reason, file: null, field: null, detail })

// Beside this module: .ts when run from source (Node strips the types), .js when compiled.
const entry = new URL(
  import.meta.url.endsWith(".ts") ? "./encodeThreadMain.ts" : "./encodeThreadMain.js",
  import.meta.url,
)
