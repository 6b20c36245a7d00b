import { modelOptions } from "./ModelOptions.ts"
import * as Kind from "./OptionKinds.ts"

export const demoOptions = {
  ...modelOptions,
  tokens: Kind.integer({
    metavar: "N",
    description: "Length of the prompt",
    defaultValue: 8192,
    minimum: 1024,
    maximum: 1_048_576,
  }),
  seed: Kind.integer({
    metavar: "N",
    description: "Another seed hides another sentence in another place",
    defaultValue: 1,
    minimum: 0,
    maximum: Number.MAX_SAFE_INTEGER,
  }),
  repeat: Kind.integer({
    metavar: "N",
    description: "How often both sides are timed, one after the other; medians are shown",
    defaultValue: 1,
    minimum: 1,
    maximum: 100,
  }),
}
