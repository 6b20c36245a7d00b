import { taskKinds } from "../quality/Tasks.ts"
import * as Kind from "./OptionKinds.ts"
import { modelOptions } from "./ModelOptions.ts"

/** What every command that asks a model generated questions can be told. */
export const questionOptions = {
  ...modelOptions,
  tasks: Kind.choices({
    metavar: "NAME[,NAME]",
    description: `What is asked: some of ${taskKinds.join(", ")}`,
    choices: taskKinds,
    shownDefault: "all",
  }),
  haystack: Kind.optionalText({
    metavar: "FILE",
    description: "Text that the questions' sentences are hidden in",
    shownDefault: "a speech of 1890 that comes with the server",
  }),
  seed: Kind.integer({
    metavar: "N",
    description: "Another seed makes other prompts",
    defaultValue: 1,
    minimum: 0,
    maximum: 0x7fff_ffff,
  }),
  "max-tokens": Kind.integer({
    metavar: "N",
    description: "Longest answer; it ends with its line",
    defaultValue: 32,
    minimum: 1,
    maximum: 4096,
  }),
}

export const accuracyOptions = {
  ...questionOptions,
  tokens: Kind.numbers({
    metavar: "N[,N]",
    description: "Lengths of the prompts",
    defaultValue: [4096],
    minimum: 512,
    maximum: 1_048_576,
  }),
  prompts: Kind.integer({
    metavar: "N",
    description: "Prompts of each task and length",
    defaultValue: 10,
    minimum: 1,
    maximum: 10_000,
  }),
  p: Kind.numbersOrNone({
    metavar: "P[,P]",
    description: "Further variants: every drop layer's p raised to at least this",
    minimum: 0,
    maximum: 1,
  }),
  cases: Kind.optionalText({
    metavar: "FILE",
    description:
      'Prompts of one\'s own in place of generated ones: a line each, {"prompt": "…", "answer": "…"}, optionally with "task". ' +
      "An answer is right that holds the text of answer",
    shownDefault: "none",
  }),
  "at-once": Kind.integer({
    metavar: "N",
    description: "Prompts in work at a time; times to the first token mean nothing then",
    defaultValue: 1,
    minimum: 1,
    maximum: 1024,
  }),
  html: Kind.optionalText({
    metavar: "FILE",
    description: "Write a page with tables and heat maps by depth and length",
    shownDefault: "none",
  }),
}
