import * as Kind from "./OptionKinds.ts"
import { modelOptions } from "./ModelOptions.ts"

export const inspectOptions = {
  ...modelOptions,
  prompt: Kind.optionalText({
    metavar: "FILE",
    description: "The prompt, question included",
    shownDefault: "standard input",
  }),
  "max-tokens": Kind.integer({
    metavar: "N",
    description: "Longest answer; it ends with its line",
    defaultValue: 32,
    minimum: 1,
    maximum: 4096,
  }),
  html: Kind.optionalText({
    metavar: "FILE",
    description: "Write the shaded prompt as a page",
    shownDefault: "none",
  }),
}
