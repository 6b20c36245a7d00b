import { Worker, type Transferable } from "node:worker_threads"
import { Effect, type Scope } from "effect"
import { FairQueue } from "./FairQueue.ts"
import type { ThreadJob, ThreadReply } from "./serveThread.ts"
import { ThreadError } from "./ThreadError.ts"

export interface ThreadPoolOptions {
  /** Module of the threads; it calls `serveThread`. */
  readonly entry: URL
  readonly workerData: unknown
  /** For people who look at the process. */
  readonly name: string
  /** Threads at most; each starts with the first job that needs it. */
  readonly threads: number
  /** Jobs that may wait for a thread. */
  readonly maxWaiting: number
}

export interface JobOptions {
  readonly transfer?: ReadonlyArray<Transferable> | undefined
  /** Who takes turns with the others; jobs of one caller are done in order of arrival. */
  readonly caller?: string | undefined
  /** A long job leaves one thread to short ones, where there are two. */
  readonly long?: boolean | undefined
  /**
   * Interruption ends the thread under this job: for jobs that would take longer than a new thread takes to start.
   * Others run to their end, and what they answer is thrown away.
   */
  readonly endThread?: boolean | undefined
}

/** Threads that do jobs, so that they do not stall this one. */
export interface ThreadPool<Payload, Value> {
  /** Fails with {@link ThreadError}. Interruption forgets a job that waits. */
  readonly run: (payload: Payload, options?: JobOptions) => Effect.Effect<Value, ThreadError>
  /** Jobs that wait for a thread. */
  readonly waiting: () => number
}

/** The threads end with the scope. */
export const makeThreadPool = <Payload, Value>(
  options: ThreadPoolOptions,
): Effect.Effect<ThreadPool<Payload, Value>, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => new Pool<Payload, Value>(options)),
    (pool) => Effect.promise(() => pool.close()),
  ).pipe(
    Effect.map((pool) => ({
      waiting: () => pool.waiting,
      run: (payload, jobOptions = {}) =>
        Effect.callback<Value, ThreadError>((resume) => {
          const cancel = pool.add(payload, jobOptions, (outcome) =>
            resume(outcome instanceof ThreadError ? Effect.fail(outcome) : Effect.succeed(outcome.value)),
          )
          return Effect.sync(cancel)
        }),
    })),
  )

type Outcome<Value> = { readonly value: Value } | ThreadError

interface Job<Payload, Value> {
  readonly id: number
  readonly payload: Payload
  readonly options: JobOptions
  done: (outcome: Outcome<Value>) => void
}

class Pool<Payload, Value> {
  private readonly options: ThreadPoolOptions
  private readonly short = new FairQueue<Job<Payload, Value>>()
  private readonly long = new FairQueue<Job<Payload, Value>>()
  private readonly threads: Array<Thread<Payload, Value>> = []
  private nextId = 1
  private closed = false

  constructor(options: ThreadPoolOptions) {
    this.options = options
  }

  get waiting(): number {
    return this.short.size + this.long.size
  }

  /** Returns what gives the job up. */
  add(payload: Payload, options: JobOptions, done: Job<Payload, Value>["done"]): () => void {
    const { maxWaiting, name } = this.options
    if (this.closed) {
      done(lost(`${name} has been closed`))
      return () => {}
    }
    const job: Job<Payload, Value> = { id: this.nextId++, payload, options, done }
    const queue = options.long === true ? this.long : this.short
    const caller = options.caller ?? ""
    queue.add(caller, job)
    this.runNext()
    if (this.waiting > maxWaiting && queue.remove(caller, job)) {
      const detail = `${this.waiting} jobs wait for ${name}, the limit is ${maxWaiting}`
      done(new ThreadError({ reason: "QueueFull", detail }))
      return () => {}
    }
    return () => {
      job.done = () => {}
      if (queue.remove(caller, job) || options.endThread !== true) return
      const thread = this.threads.find(({ job: running }) => running === job)
      if (thread !== undefined) this.end(thread)
    }
  }

  async close(): Promise<void> {
    this.closed = true
    const reason = lost(`${this.options.name} has been closed`)
    for (const job of [...this.short.clear(), ...this.long.clear()]) job.done(reason)
    const ending = this.threads.splice(0).map((thread) => {
      const { job } = thread
      thread.job = undefined
      job?.done(reason)
      return thread.worker.terminate()
    })
    await Promise.all(ending)
  }

  private runNext(): void {
    while (!this.closed && this.waiting > 0) {
      const busyLong = this.threads.filter(({ job }) => job?.options.long === true).length
      const mayRunLong = busyLong < Math.max(1, this.options.threads - 1)
      const job = this.freeThread() ? (this.short.take() ?? (mayRunLong ? this.long.take() : undefined)) : undefined
      if (job === undefined) return
      const idle = this.threads.find((thread) => thread.job === undefined)
      this.give(idle ?? this.start(), job)
    }
  }

  private freeThread(): boolean {
    return this.threads.length < this.options.threads || this.threads.some((thread) => thread.job === undefined)
  }

  private give(thread: Thread<Payload, Value>, job: Job<Payload, Value>): void {
    thread.job = job
    // Only a thread at work keeps the process alive.
    thread.worker.ref()
    const { id, payload, options } = job
    thread.worker.postMessage({ id, payload } satisfies ThreadJob<Payload>, options.transfer ?? [])
  }

  private start(): Thread<Payload, Value> {
    const { entry, workerData, name } = this.options
    const worker = new Worker(entry, { workerData, name })
    const thread: Thread<Payload, Value> = { worker, job: undefined }
    this.threads.push(thread)
    worker.on("message", (reply: ThreadReply<Value>) => {
      if (thread.job?.id !== reply.id) return
      const outcome =
        reply.error === null ? { value: reply.value } : new ThreadError({ reason: "Failed", detail: reply.error })
      this.settle(thread, outcome)
    })
    let cause = "ended"
    worker.on("error", (error) => (cause = `failed: ${String(error)}`))
    worker.on("exit", () => {
      const at = this.threads.indexOf(thread)
      if (at < 0) return
      this.threads.splice(at, 1)
      this.settle(thread, lost(`a thread of ${name} ${cause}`))
    })
    return thread
  }

  private settle(thread: Thread<Payload, Value>, outcome: Outcome<Value>): void {
    const { job } = thread
    thread.job = undefined
    thread.worker.unref()
    job?.done(outcome)
    this.runNext()
  }

  /** Ends a thread in the middle of its job; the next job gets a new one. */
  private end(thread: Thread<Payload, Value>): void {
    this.threads.splice(this.threads.indexOf(thread), 1)
    thread.job = undefined
    void thread.worker.terminate()
    this.runNext()
  }
}

interface Thread<Payload, Value> {
  readonly worker: Worker
  job: Job<Payload, Value> | undefined
}

const lost = (detail: string) => new ThreadError({ reason: "ThreadLost", detail })
