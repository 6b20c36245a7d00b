/** A broken invariant of the pure core: a defect in this project, never a user's mistake. Carries the numbers. */
export class InvariantViolation extends Error {
  readonly invariant: string
  readonly details: Readonly<Record<string, unknown>>

  constructor(invariant: string, details: Readonly<Record<string, unknown>> = {}) {
    const numbers = Object.entries(details)
      .map(([name, value]) => `${name}=${String(value)}`)
      .join(", ")
    super(numbers === "" ? invariant : `${invariant} (${numbers})`)
    this.name = "InvariantViolation"
    this.invariant = invariant
    this.details = details
  }
}
