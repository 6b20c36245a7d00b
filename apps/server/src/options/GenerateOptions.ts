import { modelOptions } from "./ModelOptions.ts"
import * as Kind from "./OptionKinds.ts"

export const generateOptions = {
  ...modelOptions,
  "max-tokens": Kind.integer({
    metavar: "N",
    description: "Longest answer, in tokens",
    defaultValue: 128,
    minimum: 1,
    maximum: 0x7fff_ffff,
  }),
  temperature: Kind.optionalNumber({
    metavar: "T",
    description: "0 always takes the most likely token",
    shownDefault: "the model's own, else 1",
    minimum: 0,
    maximum: 100,
  }),
  seed: Kind.optionalInteger({
    metavar: "N",
    description: "The same seed draws the same answer",
    shownDefault: "a fresh one",
    minimum: 0,
    maximum: Number.MAX_SAFE_INTEGER,
  }),
}
