import { Schema } from "effect"
import { isList } from "./Field.ts"
import { requestLimits } from "./Limits.ts"

/** Characters and values of some JSON together; stops counting beyond `most`. */
const sizeOf = (value: unknown, most: number): number => {
  if (typeof value === "string") return value.length
  if (value instanceof Int32Array) return value.length
  if (typeof value !== "object" || value === null) return 1
  let size = 1
  for (const [key, of] of Object.entries(value)) {
    size += key.length + sizeOf(of, most - size)
    if (size > most) return size
  }
  return size
}

const bounded = (value: unknown): string | undefined => {
  const { templateVariables } = requestLimits
  return sizeOf(value, templateVariables) > templateVariables
    ? `Expected at most ${templateVariables} characters and values in all`
    : undefined
}

/** More variables of a chat template, of any kind but bounded. */
export const TemplateVariables = Schema.Record(Schema.String, Schema.Unknown).check(Schema.makeFilter(bounded))

/** Documents that some templates show. */
export const Documents = Schema.declare((input): input is ReadonlyArray<unknown> => isList(input), {
  expected: "a list of documents",
}).check(Schema.makeFilter(bounded))
