import type { StepState } from "@uniprefill/simulator/timetravel/StepState"
import { RequestLink } from "./RequestLink.tsx"

const chips = { gets: "good", waits: "warn", "is not admitted": "bad" } as const

/** Why each prompt that waits or is in prefill did or did not get work in this step. */
export const WhySection = ({ state }: { readonly state: StepState }) => {
  const { prompts, behind, holds } = state.why
  return (
    <details className="section" open>
      <summary>Why prompts wait</summary>
      <p className="soft">{holds}</p>
      {prompts.length === 0 ? <p>No prompt waits, and none is in prefill.</p> : null}
      <ul className="why">
        {prompts.map(({ row, verdict, reason }) => (
          <li key={row}>
            <span className="row">
              <RequestLink row={row} />
              <span className={`chip ${chips[verdict]}`}>
                {verdict === "is not admitted" ? "not admitted" : verdict}
              </span>
            </span>
            <span className="reason">{reason}</span>
          </li>
        ))}
      </ul>
      {behind > 0 ? <p className="soft">… and {behind} behind them</p> : null}
    </details>
  )
}
