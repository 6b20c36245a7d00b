import type { FieldSpec } from "../protocol/Protocol.ts"

/** A value as a form shows it. */
export const shown = (value: unknown): string =>
  value === "" ? "none" : Array.isArray(value) ? value.join(", ") : String(value)

/** Text as a scenario holds it: nothing is the default, numbers are numbers, and a list of them is a list. */
export const valueOf = (
  typed: string,
  { control, defaultValue }: Pick<FieldSpec, "control" | "defaultValue">,
): unknown => {
  const text = typed.trim()
  if (text === "") return undefined
  const isNumber = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(text)
  if (control.kind === "number") return isNumber ? Number(text) : text
  const isShares = defaultValue === "paper" || defaultValue === "measured"
  if (isNumber && (typeof defaultValue === "number" || isShares || /:|length/.test(String(defaultValue)))) {
    return isShares ? [Number(text)] : Number(text)
  }
  if (/^[\d.]+(\s*,\s*[\d.]+)+$/.test(text)) return text.split(",").map(Number)
  return text
}
