import * as Kind from "../options/OptionKinds.ts"
import { modelOptions } from "../options/ModelOptions.ts"

export const benchPrefillOptions = {
  ...modelOptions,
  "input-len": Kind.list({
    metavar: "TOKENS[,TOKENS]",
    description: "Lengths of the prompts",
    shownDefault: "8192",
  }),
  "num-iters": Kind.integer({
    metavar: "N",
    description: "Timed prompts of each length and kind, dense and with token dropping in turn; one more warms up",
    defaultValue: 3,
    minimum: 1,
    maximum: 1000,
  }),
  "keep-profile": Kind.list({
    metavar: "SHARE[,SHARE]",
    description:
      "Share of the prompt's rows that each segment after the first keeps, one for each drop layer: for models with random " +
      "weights, whose scores mean nothing. They are computed and their outcome replaced",
    shownDefault: "what the scores choose",
  }),
  seed: Kind.integer({
    metavar: "N",
    description: "Another seed draws other prompts",
    defaultValue: 1,
    minimum: 0,
    maximum: 0x7fff_ffff,
  }),
}

export const benchDecodeOptions = {
  ...modelOptions,
  "num-prompts": Kind.integer({
    metavar: "N",
    description: "Requests that decode at the same time",
    defaultValue: 16,
    minimum: 1,
    maximum: 1024,
  }),
  "input-len": Kind.integer({
    metavar: "TOKENS",
    description: "Length of each prompt",
    defaultValue: 2048,
    minimum: 1,
    maximum: 0x7fff_ffff,
  }),
  "output-len": Kind.integer({
    metavar: "TOKENS",
    description: "Length of each answer",
    defaultValue: 128,
    minimum: 2,
    maximum: 0x7fff_ffff,
  }),
  seed: Kind.integer({
    metavar: "N",
    description: "Another seed draws other prompts",
    defaultValue: 1,
    minimum: 0,
    maximum: 0x7fff_ffff,
  }),
}

export const benchOpsOptions = {
  ...modelOptions,
  "input-len": Kind.integer({
    metavar: "TOKENS",
    description: "Length of the longest prompt, as far as model and memory hold it",
    defaultValue: 8192,
    minimum: 1024,
    maximum: 0x7fff_ffff,
  }),
  "num-iters": Kind.integer({
    metavar: "N",
    description: "Timed steps of each kind, whose median counts",
    defaultValue: 3,
    minimum: 1,
    maximum: 1000,
  }),
  out: Kind.optionalText({
    metavar: "FILE",
    description: "Where to write the calibration (.calibration.json), for --cost-model and the simulator",
    shownDefault: "not written",
  }),
}

export const synthModelOptions = {
  like: Kind.choice({
    metavar: "llama-3.1-8b",
    description: "Whose shape the model has",
    choices: ["llama-3.1-8b"],
    defaultValue: "llama-3.1-8b",
  }),
  layers: Kind.optionalInteger({
    metavar: "N",
    description: "Fewer layers than the original",
    shownDefault: "as many",
    minimum: 1,
    maximum: 128,
  }),
  seed: Kind.integer({
    metavar: "N",
    description: "The same seed writes the same bytes",
    defaultValue: 1,
    minimum: 0,
    maximum: 0x7fff_ffff,
  }),
}
