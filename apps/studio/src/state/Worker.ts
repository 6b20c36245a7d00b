import { Schema } from "effect"
import workerUrl from "../engine/worker.ts?worker&url"
import { type Command, type Fault, type Progress, Reply, type Request } from "../protocol/Protocol.ts"

/** A command that failed: `fault` says whether whoever uses the page can mend it. */
export class CommandError extends Error {
  readonly isUsers: boolean

  constructor({ name, message, isUsers }: Fault) {
    super(message)
    this.name = name
    this.isUsers = isUsers
  }
}

interface Pending {
  readonly resolve: (value: never) => void
  readonly reject: (error: Error) => void
  readonly onProgress: ((progress: Progress) => void) | undefined
}

const garbage = "the worker sent what cannot be read"

let script: Promise<string> | null = null

/** The workers' script, fetched once as the page loads: nothing is asked of any host after that. */
export const loadWorkerScript = (): Promise<string> =>
  (script ??= fetch(workerUrl).then(async (response) => {
    if (!response.ok) throw new Error(`${workerUrl}: ${response.status} ${response.statusText}`)
    return URL.createObjectURL(new Blob([await response.text()], { type: "text/javascript" }))
  }))

/** A worker and what is asked of it. One that fails answers everything that waits with its failure. */
export class WorkerClient {
  private readonly worker: Promise<Worker>
  private readonly pending = new Map<number, Pending>()
  private next = 1
  private failure: Error | null = null

  constructor() {
    const name = `uniprefill-${crypto.randomUUID()}`
    this.worker = loadWorkerScript().then((url) => {
      const worker = new Worker(url, { name })
      worker.addEventListener("message", ({ data }: MessageEvent<unknown>) => this.take(name, data))
      worker.addEventListener("error", (event) => {
        event.preventDefault()
        this.fail(new Error(`the worker failed: ${event.message || "it could not be started"}`))
      })
      worker.addEventListener("messageerror", () => this.fail(new Error(garbage)))
      return worker
    })
    this.worker.catch((error: Error) => this.fail(error))
  }

  /** Rejects with CommandError, or with what made the worker fail. */
  ask<A>(command: Command, onProgress?: (progress: Progress) => void): Promise<A> {
    return new Promise((resolve, reject) => {
      if (this.failure !== null) return reject(this.failure)
      const id = this.next++
      this.pending.set(id, { resolve, reject, onProgress })
      void this.post({ id, command }).catch(reject)
    })
  }

  /** Ends the run in progress early. */
  stop(): void {
    void this.post({ stop: true }).catch(() => {})
  }

  close(): void {
    this.fail(new Error("the worker was closed"))
  }

  private async post(request: Request): Promise<void> {
    const worker = await this.worker
    worker.postMessage(request)
  }

  private take(name: string, data: unknown): void {
    const decoded = Schema.decodeUnknownExit(Reply)(data)
    if (decoded._tag === "Failure") return this.fail(new Error(garbage))
    const reply = decoded.value
    if (reply.tag === "alive") return this.watch(name)
    const pending = this.pending.get(reply.id)
    if (pending === undefined) return
    if (reply.tag === "progress") return pending.onProgress?.(reply.progress)
    this.pending.delete(reply.id)
    if (reply.tag === "done") pending.resolve(reply.value as never)
    else pending.reject(new CommandError(reply.fault))
  }

  /** A worker that the browser ends says nothing, but its lock comes free. */
  private watch(name: string): void {
    void navigator.locks.request(name, () =>
      this.fail(new Error("the browser ended the worker: its memory may be full")),
    )
  }

  /** Nothing is expected any more of a worker that has failed, and what it holds is given back. */
  private fail(error: Error): void {
    this.failure ??= error
    for (const { reject } of this.pending.values()) reject(error)
    this.pending.clear()
    void this.worker.then((worker) => worker.terminate()).catch(() => {})
  }
}
