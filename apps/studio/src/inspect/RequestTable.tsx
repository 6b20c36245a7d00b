import type { RequestState, StepState } from "@uniprefill/simulator/timetravel/StepState"
import { useState } from "react"
import { countLabel } from "../layout/Ticks.ts"
import { RequestLink } from "./RequestLink.tsx"
import { Section } from "./Section.tsx"

const shownFirst = 12

/** Every request that waits or owns anything. */
export const RequestTable = ({ state }: { readonly state: StepState }) => {
  const { requests, unlistedWaiting } = state
  const counts = new Map<string, number>()
  for (const { phase } of requests) counts.set(phase, (counts.get(phase) ?? 0) + 1)
  const said = [...counts]
    .map(([phase, count]) => `${count + (phase === "waiting" ? unlistedWaiting : 0)} ${phase}`)
    .join(", ")
  return <Section title={`Every request: ${said === "" ? "none" : said}`}>{() => <Rows state={state} />}</Section>
}

const Rows = ({ state: { requests, unlistedWaiting } }: { readonly state: StepState }) => {
  const [all, setAll] = useState(false)
  const ordered = requests.toSorted((a, b) => rank(a) - rank(b) || a.row - b.row)
  const shown = all ? ordered : ordered.slice(0, shownFirst)
  return (
    <>
      <div className="scroll" tabIndex={0} role="region" aria-label="Requests at this step">
        <table className="grid">
          <thead>
            <tr>
              <th scope="col">request</th>
              <th scope="col">phase</th>
              <th scope="col">progress</th>
              <th scope="col">slabs</th>
              <th scope="col">reserved</th>
              <th scope="col">slot</th>
            </tr>
          </thead>
          <tbody>
            {shown.map((request) => (
              <tr key={request.row}>
                <th scope="row">
                  <RequestLink row={request.row} />
                </th>
                <td>{request.phase}</td>
                <td>{progressOf(request)}</td>
                <td>{countLabel(request.slabs)}</td>
                <td>{request.reservedSlabs === 0 ? "–" : countLabel(request.reservedSlabs)}</td>
                <td>{request.slot < 0 ? "–" : request.slot}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {ordered.length > shownFirst ? (
        <button type="button" className="quiet" onClick={() => setAll(!all)}>
          {all ? "Show fewer" : `Show all ${ordered.length}`}
        </button>
      ) : null}
      {unlistedWaiting > 0 ? <p className="soft">… and {unlistedWaiting} that wait behind them</p> : null}
    </>
  )
}

const phases = ["prefill", "fork", "waiting", "decode", "finished"]

const rank = ({ phase }: RequestState): number => phases.indexOf(phase)

const progressOf = (request: RequestState): string => {
  if (request.phase === "decode") return `${request.outputs} of ${request.maxTokens} tokens`
  if (request.phase === "prefill")
    return `segment ${request.segment}, ${countLabel(request.computedRows)} of ${countLabel(request.segmentRows)} rows`
  return `${countLabel(request.promptTokens)} prompt tokens`
}
