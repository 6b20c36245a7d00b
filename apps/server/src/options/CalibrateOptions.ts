import { trainedKinds } from "../quality/Tasks.ts"
import { questionOptions } from "./AccuracyOptions.ts"
import * as Kind from "./OptionKinds.ts"

const { "drop-schedule": _, ...others } = questionOptions

export const calibrateOptions = {
  ...others,
  tasks: { ...others.tasks, defaultValue: trainedKinds, shownDefault: trainedKinds.join(",") } as typeof others.tasks,
  tokens: Kind.integer({
    metavar: "N",
    description: "Length of the prompts",
    defaultValue: 4096,
    minimum: 1024,
    maximum: 1_048_576,
  }),
  prompts: Kind.integer({
    metavar: "N",
    description: "Prompts of each task",
    defaultValue: 6,
    minimum: 1,
    maximum: 10_000,
  }),
  "check-prompts": Kind.integer({
    metavar: "N",
    description: "Further prompts of each task, which the choice is checked on; 0 leaves it unchecked",
    defaultValue: 12,
    minimum: 0,
    maximum: 10_000,
  }),
  p: Kind.numbers({
    metavar: "P[,P]",
    description: "Shares of attention mass to try at each layer",
    defaultValue: [0.99, 0.95, 0.9],
    minimum: 0,
    maximum: 1,
  }),
  "max-kl": Kind.number({
    metavar: "NATS",
    description: "Most divergence of an answer from dense, mean over the prompts that dense has right",
    defaultValue: 0.05,
    minimum: 0,
    maximum: 100,
  }),
  "max-loss": Kind.number({
    metavar: "SHARE",
    description: "Most answers lost when choosing, net of those won, as a share of those that dense has right",
    defaultValue: 0,
    minimum: 0,
    maximum: 1,
  }),
  "max-trials": Kind.integer({
    metavar: "N",
    description: "Trials of several drop layers together before each check",
    defaultValue: 12,
    minimum: 0,
    maximum: 1000,
  }),
  minutes: Kind.number({
    metavar: "N",
    description: "Time after which nothing more is measured; what is known by then is used",
    defaultValue: 60,
    minimum: 0.01,
    maximum: 100_000,
  }),
  out: Kind.text({
    metavar: "FILE",
    description:
      "Where the schedule is written. What was measured is kept in FILE.progress, so that it can go on, until all is",
    defaultValue: "uniprefill.json",
  }),
  keep: Kind.optionalText({
    metavar: "FILE",
    description: "Write the rows that the schedule's layers keep at every --p, for uniprefill-sim --keep (.keep.json)",
    shownDefault: "none",
  }),
  "keep-tokens": Kind.numbersOrNone({
    metavar: "N[,N]",
    description: "Lengths of the prompts that --keep is measured with",
    shownDefault: "that of --tokens",
    minimum: 1024,
    maximum: 1_048_576,
  }),
}
