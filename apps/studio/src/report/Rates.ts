/** What a scenario comes to at a rate. */
export interface RatePoint {
  /** On the rate of the scenario at hand. */
  readonly factor: number
  /** Requests a second. */
  readonly offered: number
  readonly served: number
  readonly goodput: number
  readonly attainment: number
}

/** Factors tried first. */
export const ratesAround = [0.25, 0.5, 0.75, 1, 1.5, 2, 3] as const

/** The scenario with requests arriving `factor` times as often: by its trace's factor, or by its rate where it has no trace. */
export const scaledRate = (scenario: Readonly<Record<string, unknown>>, factor: number): Record<string, unknown> => {
  const workload = (scenario["workload"] ?? {}) as Readonly<Record<string, unknown>>
  const rate = typeof workload["rate"] === "number" ? workload["rate"] : 1
  return { ...scenario, workload: { ...workload, rate: rate * factor } }
}

/** The highest rate below which every rate holds the share, and the next one; null where there is none. */
export const kneeOf = (
  points: ReadonlyArray<RatePoint>,
  share: number,
): { readonly last: RatePoint | null; readonly first: RatePoint | null } => {
  const sorted = points.toSorted((a, b) => a.factor - b.factor)
  const at = sorted.findIndex(({ attainment }) => attainment < share)
  if (at < 0) return { last: sorted.at(-1) ?? null, first: null }
  return { last: sorted[at - 1] ?? null, first: sorted[at]! }
}
