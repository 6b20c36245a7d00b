import * as Kind from "./OptionKinds.ts"
import { modelOptions } from "./ModelOptions.ts"
import type { OptionValues } from "./Options.ts"
import { kvEventsOption } from "./KvEventsOption.ts"
import { corsDefaults } from "../http/Cors.ts"
import { failureTypes } from "../http/FailureInjection.ts"
import { serverLimits } from "../http/ServerLimits.ts"

export const serveOptions = {
  ...modelOptions,
  host: Kind.text({
    metavar: "ADDRESS",
    description: "Address to listen on. 0.0.0.0 is every network of this machine: set --api-key then",
    defaultValue: "127.0.0.1",
  }),
  port: Kind.integer({
    metavar: "PORT",
    description: "Port to listen on; 0 takes a free one",
    defaultValue: 8000,
    minimum: 0,
    maximum: 65_535,
  }),
  "served-model-name": Kind.list({
    metavar: "NAME[,NAME]",
    description: "What clients call the model",
    shownDefault: "the name of its directory",
  }),
  "api-key": Kind.list({
    metavar: "KEY[,KEY]",
    description:
      "Keys of which clients must send one. Each is a tenant: cached prefixes are not shared with the others, and " +
      "--policy fair-share is fair between them. Other users of this machine see flags: prefer UNIPREFILL_API_KEY",
    shownDefault: "none needed",
  }),
  "chat-template": Kind.optionalText({
    metavar: "FILE",
    description: "Jinja template that makes a prompt of messages, in place of the model's own",
    shownDefault: "the model's own",
  }),
  "allowed-origins": Kind.jsonList({
    metavar: "JSON",
    description: "Origins of web pages that may use this server, as a JSON list",
    defaultValue: corsDefaults.allowedOrigins,
  }),
  "allowed-methods": Kind.jsonList({
    metavar: "JSON",
    description: "Methods that such pages may use",
    defaultValue: corsDefaults.allowedMethods,
  }),
  "allowed-headers": Kind.jsonList({
    metavar: "JSON",
    description: "Headers that such pages may send",
    defaultValue: corsDefaults.allowedHeaders,
  }),
  "allow-credentials": Kind.choice({
    metavar: "on|off",
    description: "Whether such pages may send cookies",
    choices: ["on", "off"],
    defaultValue: "off",
  }),
  "trust-gateway-headers": Kind.choice({
    metavar: "on|off",
    description:
      "Whether x-gateway-inference-fairness-id (tenant), x-gateway-inference-objective (priority) and x-slo-ttft-ms " +
      "(deadline) are listened to: only where every request comes through a gateway that sets them",
    choices: ["on", "off"],
    defaultValue: "off",
  }),
  "kv-events-config": kvEventsOption({
    metavar: "JSON",
    description:
      'Publish what the prefix cache holds over ZeroMQ, as vLLM does: {"enable_kv_cache_events": true, "endpoint": ' +
      '"tcp://*:5557", "replay_endpoint": "tcp://*:5558", "topic": "kv@POD@MODEL"}',
    shownDefault: "nothing is published",
  }),
  "admin-port": Kind.optionalInteger({
    metavar: "PORT",
    description:
      "Port of 127.0.0.1 for an operator: GET /state, POST /dropping switches token dropping; 0 takes a free one",
    shownDefault: "none",
    minimum: 0,
    maximum: 65_535,
  }),
  "p-floor": Kind.optionalNumber({
    metavar: "P",
    description: "Requests may lower p of the drop schedule this far: sooner first tokens at the cost of accuracy",
    shownDefault: "they may only raise it",
    minimum: 0,
    maximum: 1,
  }),
  "ttft-slo-ms": Kind.optionalInteger({
    metavar: "MS",
    description: "When the first token of a request is due that has no ttft_slo_ms of its own",
    shownDefault: "no time",
    minimum: 1,
    maximum: 86_400_000,
  }),
  "slo-p": Kind.optionalNumber({
    metavar: "P",
    description:
      "Where first tokens would be late, requests that do not name a p are served at this one, below the schedule's: " +
      "sooner at the cost of accuracy, and the answer says so",
    shownDefault: "late ones are late",
    minimum: 0,
    maximum: 1,
  }),
  "shadow-dense-ratio": Kind.number({
    metavar: "SHARE",
    description:
      "Share of answers with dropped tokens that is made again dense, when nothing waits, and compared in /metrics",
    defaultValue: 0,
    minimum: 0,
    maximum: 1,
  }),
  "otlp-endpoint": Kind.optionalText({
    metavar: "URL",
    description: "Send traces, logs and metrics there in OTLP over HTTP, such as http://127.0.0.1:4318",
    shownDefault: "nothing is sent",
  }),
  "failure-rate": Kind.number({
    metavar: "SHARE",
    description: "With --executor sim: share of requests that get an error, for those who test clients and gateways",
    defaultValue: 0,
    minimum: 0,
    maximum: 1,
  }),
  "failure-types": Kind.choices({
    metavar: "TYPE[,TYPE]",
    description: `What they get, drawn from these: ${failureTypes.join(", ")}`,
    choices: failureTypes,
    shownDefault: "all of them",
  }),
  "keep-alive-seconds": Kind.integer({
    metavar: "S",
    description: "How long a connection may be idle: longer than a proxy in front keeps its own",
    defaultValue: serverLimits.keepAliveMs / 1000,
    minimum: 1,
    maximum: 86_400,
  }),
  "comment-seconds": Kind.integer({
    metavar: "S",
    description: "Time between the comments that keep a stream alive until its first token",
    defaultValue: serverLimits.commentMs / 1000,
    minimum: 1,
    maximum: 3600,
  }),
  "stream-interval-ms": Kind.integer({
    metavar: "MS",
    description:
      "Tokens of an answer that follow each other faster than this go in one event of its stream, but for the first and " +
      "the last; 0 sends each by itself",
    // Sooner than a person or a page notices, and longer than the steps of small models.
    defaultValue: 5,
    minimum: 0,
    maximum: 10_000,
  }),
  "max-connections": Kind.integer({
    metavar: "N",
    description: "Open connections; further ones are closed at once",
    defaultValue: serverLimits.connections,
    minimum: 1,
    maximum: 1_000_000,
  }),
  "max-body": Kind.bytes({
    metavar: "SIZE",
    description: "Largest request body",
    defaultValue: `${serverLimits.bodyBytes / 1024 / 1024}MiB`,
    minimum: 1024,
  }),
  "drain-seconds": Kind.integer({
    metavar: "S",
    description: "After SIGTERM: how long running requests may take to finish",
    defaultValue: 30,
    minimum: 0,
    maximum: 86_400,
  }),
  "stall-seconds": Kind.integer({
    metavar: "S",
    description: "/ready says 503 when work waits and no step has finished for this long",
    defaultValue: 60,
    minimum: 1,
    maximum: 86_400,
  }),
  "log-format": Kind.choice({
    metavar: "text|json",
    description: "Form of the log lines on stderr",
    choices: ["text", "json"],
    defaultValue: "text",
  }),
}

export type ServeSettings = OptionValues<typeof serveOptions>
