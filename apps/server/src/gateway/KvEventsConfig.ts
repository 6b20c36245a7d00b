import { hostname } from "node:os"
import { Result, Schema } from "effect"

/** The value of --kv-events-config, with vLLM's fields. */
const Fields = Schema.Struct({
  enable_kv_cache_events: Schema.optionalKey(Schema.Boolean),
  publisher: Schema.optionalKey(Schema.Literals(["zmq", "null"])),
  endpoint: Schema.optionalKey(Schema.String),
  replay_endpoint: Schema.optionalKey(Schema.NullOr(Schema.String)),
  topic: Schema.optionalKey(Schema.String),
  buffer_steps: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1_000_000 }))),
  hwm: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 10_000_000 }))),
})

export interface KvEventsConfig {
  /** Where subscribers connect to; a `*` for the host is every network. */
  readonly endpoint: string
  /** Where they ask for batches that they missed; null for nowhere. */
  readonly replayEndpoint: string | null
  /** First frame of every message; undefined: `kv@HOST@MODEL`. */
  readonly topic: string | undefined
  /** Batches that can be asked for again. */
  readonly bufferSteps: number
  /** Messages that wait for a slow subscriber, before it misses some. */
  readonly highWaterMark: number
}

const decode = Schema.decodeUnknownResult(Fields)

/** Fails with what was expected. Undefined where the config turns events off. */
export const decodeKvEventsConfig = (text: string): Result.Result<KvEventsConfig | undefined, string> => {
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch {
    return Result.fail('JSON, such as {"enable_kv_cache_events": true, "endpoint": "tcp://*:5557"}')
  }
  const decoded = decode(json)
  if (Result.isFailure(decoded)) return Result.fail(`fields of a KV events config (${decoded.failure.message})`)
  const fields = decoded.success
  if (fields.enable_kv_cache_events === false || fields.publisher === "null") return Result.succeed(undefined)
  const endpoints = [fields.endpoint ?? "tcp://127.0.0.1:5557", fields.replay_endpoint ?? null]
  const wrong = endpoints.find((endpoint) => endpoint !== null && !/^(tcp|ipc|inproc):\/\/.+$/.test(endpoint))
  if (wrong !== undefined) return Result.fail(`an endpoint such as tcp://*:5557, in place of ${JSON.stringify(wrong)}`)
  return Result.succeed({
    endpoint: endpoints[0]!,
    replayEndpoint: endpoints[1]!,
    topic: fields.topic === "" ? undefined : fields.topic,
    bufferSteps: fields.buffer_steps ?? 10_000,
    highWaterMark: fields.hwm ?? 100_000,
  })
}

/** What subscribers filter by: the pod's name, and the model's. */
export const defaultTopic = (model: string): string => `kv@${process.env.POD_NAME ?? hostname()}@${model}`
