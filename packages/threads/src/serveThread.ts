import { parentPort, type Transferable, workerData } from "node:worker_threads"

/** What a thread is sent, and what it answers. */
export interface ThreadJob<Payload> {
  readonly id: number
  readonly payload: Payload
}

export type ThreadReply<Value> =
  | { readonly id: number; readonly value: Value; readonly error: null }
  | { readonly id: number; readonly error: string }

export interface Answered<Value> {
  readonly value: Value
  /** Memory that is moved to the caller instead of being copied. */
  readonly transfer: ReadonlyArray<Transferable>
}

/** The thread's side of a pool: answers one job at a time. `handler` is made of the pool's `workerData`, at the first job. */
// oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- a caller says what it is sent: nothing checks that here
export const serveThread = <Data, Payload, Value>(
  makeHandler: (data: Data) => (payload: Payload) => Answered<Value>,
): void => {
  const port = parentPort!
  let handler: ((payload: Payload) => Answered<Value>) | undefined
  port.on("message", ({ id, payload }: ThreadJob<Payload>) => {
    try {
      handler ??= makeHandler(workerData as Data)
      const { value, transfer } = handler(payload)
      port.postMessage({ id, value, error: null } satisfies ThreadReply<Value>, transfer)
    } catch (cause) {
      const error = cause instanceof Error ? cause.message : String(cause)
      port.postMessage({ id, error } satisfies ThreadReply<Value>)
    }
  })
}
