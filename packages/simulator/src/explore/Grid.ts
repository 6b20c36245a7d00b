import { override, ScenarioError } from "../scenario/ScenarioFields.ts"
import type { Scenario } from "../scenario/Scenario.ts"

/** A point of a grid: which values it has, and the scenario that follows. */
export interface GridPoint {
  readonly values: Readonly<Record<string, unknown>>
  readonly scenario: Scenario
}

const maxPoints = 100_000

/** Every combination of the values, the last field changing fastest. Fails with ScenarioError naming field and value. */
export const gridOf = (
  scenario: Scenario,
  over: Readonly<Record<string, ReadonlyArray<unknown>>>,
): ReadonlyArray<GridPoint> => {
  const { sweep: _sweep, variants: _variants, ...base } = scenario
  let points: Array<GridPoint> = [{ values: {}, scenario: base }]
  for (const [path, values] of Object.entries(over)) {
    if (values.length === 0) throw new ScenarioError(`sweep.over.${path}: an empty list`)
    if (points.length * values.length > maxPoints) throw new ScenarioError(`sweep: more than ${maxPoints} points`)
    points = points.flatMap((point) =>
      values.map((value) => ({
        values: { ...point.values, [path]: value },
        scenario: override(point.scenario, { [path]: value }, `sweep.over.${path}`),
      })),
    )
  }
  return points
}
