import type { StepState } from "@uniprefill/simulator/timetravel/StepState"
import { themeOf } from "../layout/Colours.ts"
import { countLabel } from "../layout/Ticks.ts"
import { RequestLink } from "./RequestLink.tsx"

interface Props {
  readonly state: StepState
  readonly segments: number
  readonly isDark: boolean
}

/** What a step computes. */
export const HoldsSection = ({ state, segments, isDark }: Props) => {
  const theme = themeOf(isDark, segments)
  return (
    <details className="section" open>
      <summary>What it holds</summary>
      <ul className="pieces">
        {state.decodeRows > 0 ? (
          <li>
            <i className="swatch" style={{ background: theme.decode }} />
            {countLabel(state.decodeRows)} decode {state.decodeRows === 1 ? "row" : "rows"}
          </li>
        ) : null}
        {state.items.map((piece) => (
          <li key={piece.row}>
            <i className="swatch" style={{ background: theme.segments[piece.lastSegment]! }} />
            <RequestLink row={piece.row} />
            <span>
              rows {countLabel(piece.firstRow)}–{countLabel(piece.firstRow + piece.rows - 1)} of segment{" "}
              {piece.firstSegment}
              {piece.lastSegment > piece.firstSegment ? `, on through ${piece.lastSegment}` : ""}
            </span>
            {piece.givesToken ? <span className="chip good">first token</span> : null}
          </li>
        ))}
        {state.decodeRows === 0 && state.items.length === 0 ? <li className="soft">bookkeeping only</li> : null}
      </ul>
    </details>
  )
}
