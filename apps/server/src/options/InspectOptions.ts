import { questionOptions } from "./AccuracyOptions.ts"
import * as Kind from "./OptionKinds.ts"
import { modelOptions } from "./ModelOptions.ts"

export const inspectOptions = {
  ...modelOptions,
  prompt: Kind.optionalText({
    metavar: "FILE",
    description: "The prompt, question included",
    shownDefault: "standard input",
  }),
  "max-tokens": questionOptions["max-tokens"],
  html: Kind.optionalText({
    metavar: "FILE",
    description: "Write the shaded prompt as a page",
    shownDefault: "none",
  }),
}
