import * as Kind from "../options/OptionKinds.ts"
import type { OptionValues } from "../options/Options.ts"

const most = 0x7fff_ffff

/** Options of `bench serve`, with the names of `vllm bench serve`. */
export const benchOptions = {
  backend: Kind.choice({
    metavar: "openai|openai-chat",
    description: "Which API is measured: completions or chat completions",
    choices: ["openai", "openai-chat"],
    defaultValue: "openai",
  }),
  "base-url": Kind.optionalText({
    metavar: "URL",
    description: "The server, such as http://127.0.0.1:8000; --host and --port otherwise",
  }),
  host: Kind.text({ metavar: "ADDRESS", description: "The server's address", defaultValue: "127.0.0.1" }),
  port: Kind.integer({
    metavar: "PORT",
    description: "The server's port",
    defaultValue: 8000,
    minimum: 1,
    maximum: 65_535,
  }),
  endpoint: Kind.optionalText({
    metavar: "PATH",
    description: "Path of the API",
    shownDefault: "/v1/completions, or /v1/chat/completions with --backend openai-chat",
  }),
  "api-key": Kind.optionalText({
    metavar: "KEY",
    description: "Key that is sent; OPENAI_API_KEY otherwise",
    shownDefault: "none",
  }),
  model: Kind.optionalText({
    metavar: "NAME",
    description: "Model that is asked for",
    shownDefault: "the first that the server lists",
  }),
  "dataset-name": Kind.choice({
    metavar: "random|sharegpt|timed-trace",
    description: "Where prompts come from: drawn, conversations of a file, or lengths and times of a recorded trace",
    choices: ["random", "sharegpt", "timed-trace"],
    defaultValue: "random",
  }),
  "dataset-path": Kind.optionalText({
    metavar: "FILE",
    description:
      "sharegpt: JSON list of {conversations: [{from, value}]}. timed-trace: JSON lines of {timestamp (ms), input_length, " +
      "output_length, hash_ids}, whose times are kept",
  }),
  "num-prompts": Kind.integer({
    metavar: "N",
    description: "Requests",
    defaultValue: 1000,
    minimum: 1,
    maximum: 1_000_000,
  }),
  "request-rate": Kind.rate({
    metavar: "RPS|inf",
    description: "Requests a second; inf sends all at once",
    defaultValue: Number.POSITIVE_INFINITY,
  }),
  burstiness: Kind.number({
    metavar: "X",
    description: "Shape of the gaps between requests: 1 is a Poisson process, less is burstier, more is steadier",
    defaultValue: 1,
    minimum: 0.001,
    maximum: 1e6,
  }),
  "max-concurrency": Kind.optionalInteger({
    metavar: "N",
    description: "Requests under way at a time",
    shownDefault: "no limit",
    minimum: 1,
    maximum: 100_000,
  }),
  "random-input-len": Kind.integer({
    metavar: "TOKENS",
    description: "random: tokens of a prompt",
    defaultValue: 1024,
    minimum: 1,
    maximum: most,
  }),
  "random-output-len": Kind.integer({
    metavar: "TOKENS",
    description: "random: tokens of an answer",
    defaultValue: 128,
    minimum: 1,
    maximum: most,
  }),
  "random-range-ratio": Kind.number({
    metavar: "X",
    description: "random: lengths are drawn from (1 − X) to (1 + X) times these",
    defaultValue: 0,
    minimum: 0,
    maximum: 0.999,
  }),
  "random-prefix-len": Kind.integer({
    metavar: "TOKENS",
    description: "random: tokens that all prompts begin with, before those of --random-input-len",
    defaultValue: 0,
    minimum: 0,
    maximum: most,
  }),
  "random-vocab-size": Kind.integer({
    metavar: "N",
    description:
      "random and timed-trace: token ids are drawn from 3 to before this; prompts of chats are words instead",
    defaultValue: 4000,
    minimum: 16,
    maximum: most,
  }),
  "sharegpt-output-len": Kind.optionalInteger({
    metavar: "TOKENS",
    description: "sharegpt: tokens of an answer",
    shownDefault: "about those of the conversation's own",
    minimum: 1,
    maximum: most,
  }),
  "trace-time-scale": Kind.number({
    metavar: "X",
    description: "timed-trace: 0.5 plays the trace twice as fast",
    defaultValue: 1,
    minimum: 0,
    maximum: 1e6,
  }),
  seed: Kind.integer({
    metavar: "N",
    description: "Another seed draws other prompts and gaps",
    defaultValue: 0,
    minimum: 0,
    maximum: most,
  }),
  "ignore-eos": Kind.choice({
    metavar: "on|off",
    description: "Whether answers are as long as asked for, whatever the model says",
    choices: ["on", "off"],
    defaultValue: "off",
  }),
  temperature: Kind.optionalNumber({
    metavar: "T",
    description: "Temperature that is asked for",
    shownDefault: "the server's",
    minimum: 0,
    maximum: 100,
  }),
  "num-warmups": Kind.integer({
    metavar: "N",
    description: "Requests before anything is measured",
    defaultValue: 0,
    minimum: 0,
    maximum: 10_000,
  }),
  "ready-check-timeout-sec": Kind.integer({
    metavar: "S",
    description: "How long the server may take to answer a first request; 0 does not ask",
    defaultValue: 600,
    minimum: 0,
    maximum: 86_400,
  }),
  "percentile-metrics": Kind.choices({
    metavar: "NAME[,NAME]",
    description: "Figures whose distributions are shown: ttft, tpot, itl, e2el",
    choices: ["ttft", "tpot", "itl", "e2el"],
    shownDefault: "all",
  }),
  "metric-percentiles": Kind.numbers({
    metavar: "P[,P]",
    description: "Percentiles that are shown",
    defaultValue: [99],
    minimum: 0,
    maximum: 100,
  }),
  goodput: Kind.list({
    metavar: "NAME:MS[,…]",
    description: "Counts requests that keep every one of these, such as ttft:500,tpot:50",
    shownDefault: "not counted",
  }),
  "save-result": Kind.optionalText({
    metavar: "FILE",
    description: "Write the figures as JSON, with the fields of vllm bench serve",
    shownDefault: "not written",
  }),
  "save-detailed": Kind.choice({
    metavar: "on|off",
    description: "Whether that file has every request's lengths and times",
    choices: ["on", "off"],
    defaultValue: "off",
  }),
  label: Kind.optionalText({
    metavar: "TEXT",
    description: "Name of the run, in the file",
    shownDefault: "the backend",
  }),
}

export type BenchSettings = OptionValues<typeof benchOptions>
