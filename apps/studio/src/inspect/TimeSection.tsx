import { useState } from "react"
import type { StepState } from "@uniprefill/simulator/timetravel/StepState"
import { themeOf } from "../layout/Colours.ts"
import { percent } from "./KeptStrip.tsx"

interface Props {
  readonly state: StepState
  readonly segments: number
  readonly isDark: boolean
}

/** Parts of a step's time that are shown at first, the largest ones. */
const shownFirst = 6

/** The parts of a step's time. */
export const TimeSection = ({ state, segments, isDark }: Props) => {
  const theme = themeOf(isDark, segments)
  const total = state.terms.reduce((sum, { micros }) => sum + micros, 0)
  const terms = state.terms.map((term) => {
    const [, segment, part] = /^segment (\d+): (.*)$/.exec(term.name) ?? []
    const colour =
      segment === undefined ? theme.soft : part === "decode attention" ? theme.decode : theme.segments[Number(segment)]!
    return { ...term, colour }
  })
  const [all, setAll] = useState(false)
  const ordered = terms.toSorted((a, b) => b.micros - a.micros).filter(({ micros }) => micros > total / 1000)
  return (
    <details className="section" open>
      <summary>Where its time goes</summary>
      <div className="bar" aria-hidden="true">
        {terms.map(({ name, micros, colour }) => (
          <i key={name} style={{ flexGrow: Math.max(0, micros), background: colour }} />
        ))}
      </div>
      <table className="terms">
        <thead className="visually-hidden">
          <tr>
            <th scope="col">part</th>
            <th scope="col">µs</th>
            <th scope="col">share</th>
          </tr>
        </thead>
        <tbody>
          {(all ? ordered : ordered.slice(0, shownFirst)).map(({ name, micros, colour }) => (
            <tr key={name}>
              <th scope="row">
                <i className="swatch" style={{ background: colour }} />
                {name}
              </th>
              <td>{micros >= 1000 ? `${(micros / 1000).toFixed(2)} ms` : `${micros.toFixed(0)} µs`}</td>
              <td className="soft">{percent(micros / total)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {ordered.length > shownFirst ? (
        <button type="button" className="quiet" onClick={() => setAll(!all)}>
          {all ? "Show the largest" : `Show all ${ordered.length} parts`}
        </button>
      ) : null}
      {state.outside.length > 0 ? (
        <p className="note">
          <strong>Outside of what was measured.</strong> {state.outside.slice(0, 3).join("; ")}
          {state.outside.length > 3 ? ` and ${state.outside.length - 3} more` : ""}
        </p>
      ) : null}
    </details>
  )
}
