/**
 * What a device can do, as measured or as its datasheet says: the file behind `--cost-model`.
 *
 * Rates are what matrix products and attention reach in practice, not peaks.
 */
export interface CostTable {
  readonly format: "uniprefill-cost-model"
  readonly version: 1
  /** What was measured, for people. */
  readonly device: string
  /** Where the numbers come from: `measured` on such a device, or `assumed`. */
  readonly source: "measured" | "assumed"
  /** Dense matrix products, FLOP per µs (10⁶ FLOP/s). */
  readonly gemmFlopsPerMicro: number
  /** Attention, FLOP per µs. */
  readonly attentionFlopsPerMicro: number
  /** Memory traffic of weights and K/V, bytes per µs. */
  readonly bytesPerMicro: number
  /** Host and launch time of any step, µs. */
  readonly stepMicros: number
  /** Added by each prefill item, µs. */
  readonly itemMicros: number
}

export class CostTableError extends Error {
  constructor(message: string) {
    super(message)
    this.name = "CostTableError"
  }
}

const rates = ["gemmFlopsPerMicro", "attentionFlopsPerMicro", "bytesPerMicro"] as const
const times = ["stepMicros", "itemMicros"] as const

/** Checks a parsed JSON value. Fails with {@link CostTableError} naming the field. */
export const decodeCostTable = (value: unknown): CostTable => {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new CostTableError("a cost model is a JSON object")
  }
  const table = value as Record<string, unknown>
  if (table["format"] !== "uniprefill-cost-model") {
    throw new CostTableError(`format is ${JSON.stringify(table["format"])}, expected "uniprefill-cost-model"`)
  }
  if (table["version"] !== 1) throw new CostTableError(`version is ${JSON.stringify(table["version"])}, expected 1`)
  if (typeof table["device"] !== "string") throw new CostTableError("device is missing or not a string")
  if (table["source"] !== "measured" && table["source"] !== "assumed") {
    throw new CostTableError(`source is ${JSON.stringify(table["source"])}, expected "measured" or "assumed"`)
  }
  for (const field of rates) {
    const number = table[field]
    if (typeof number !== "number" || !(number > 0) || !Number.isFinite(number)) {
      throw new CostTableError(`${field} is ${JSON.stringify(number)}, expected a number above 0`)
    }
  }
  for (const field of times) {
    const number = table[field]
    if (typeof number !== "number" || !(number >= 0) || !Number.isFinite(number)) {
      throw new CostTableError(`${field} is ${JSON.stringify(number)}, expected a number of at least 0`)
    }
  }
  const known = new Set<string>(["format", "version", "device", "source", ...rates, ...times])
  for (const field of Object.keys(table)) {
    if (!known.has(field)) throw new CostTableError(`unknown field ${JSON.stringify(field)}`)
  }
  return table as unknown as CostTable
}
