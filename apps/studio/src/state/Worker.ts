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
    this.worker = loadWorkerScript().then((url) => {
      const worker = new Worker(url)
      worker.addEventListener("message", ({ data }: MessageEvent<unknown>) => this.take(data))
      worker.addEventListener("error", (event) => {
        event.preventDefault()
        this.fail(new Error(`the worker failed: ${event.message || "it could not be started"}`))
      })
      worker.addEventListener("messageerror", () => this.fail(new Error("the worker sent what cannot be read")))
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
    void this.worker.then((worker) => worker.terminate()).catch(() => {})
    this.fail(new Error("the worker was closed"))
  }

  private async post(request: Request): Promise<void> {
    const worker = await this.worker
    worker.postMessage(request)
  }

  private take(data: unknown): void {
    const reply = Schema.decodeUnknownSync(Reply)(data)
    const pending = this.pending.get(reply.id)
    if (pending === undefined) return
    if (reply.tag === "progress") return pending.onProgress?.(reply.progress as Progress)
    this.pending.delete(reply.id)
    if (reply.tag === "done") pending.resolve(reply.value as never)
    else pending.reject(new CommandError(reply.fault))
  }

  private fail(error: Error): void {
    this.failure ??= error
    for (const { reject } of this.pending.values()) reject(error)
    this.pending.clear()
  }
}
