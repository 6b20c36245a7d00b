import { useId } from "react"
import { percent } from "../inspect/KeptStrip.tsx"
import type { RunResult } from "../protocol/Protocol.ts"
import { Icon } from "../ui/Icon.tsx"

/** Where the figures of a run come from: beside them, wherever they are. */
export const Provenance = ({
  result,
  expectedHash,
  letter,
}: {
  readonly result: RunResult
  readonly expectedHash: string
  readonly letter?: string
}) => {
  const { provenance, hash, reproduction } = result
  const { device, rates, ratesNote, link, keep, accuracy, lowered, assumptions } = provenance
  const id = useId()
  const isSound = rates === "recorded" || rates === "calibrated"
  return (
    <section className="provenance" aria-labelledby={id}>
      <h3 id={id}>What {letter === undefined ? "these figures rest" : `the figures of ${letter} rest`} on</h3>
      <dl className="facts">
        <div>
          <dt>step times</dt>
          <dd>
            <span className={`chip ${isSound ? "good" : "warn"}`}>{rates === "recorded" ? "measured" : rates}</span>{" "}
            {rates === "recorded" ? ratesNote : `${device}: ${ratesNote}`}
          </dd>
        </div>
        {link === null ? null : (
          <div>
            <dt>all-reduces</dt>
            <dd>{link}</dd>
          </div>
        )}
        <div>
          <dt>rows kept</dt>
          <dd>{keep}</dd>
        </div>
        <div>
          <dt>accuracy</dt>
          <dd>{accuracy}</dd>
        </div>
        {lowered === null ? null : (
          <div>
            <dt>lowered p</dt>
            <dd>
              {lowered.p} for {percent(lowered.share)} of requests, whose kept rows are {lowered.source}: {lowered.note}
              ; accuracy at it: {lowered.accuracy}
            </dd>
          </div>
        )}
        {assumptions.map((assumption) => (
          <div key={assumption}>
            <dt>assumed</dt>
            <dd>{assumption}</dd>
          </div>
        ))}
        <div>
          <dt>plan hash</dt>
          <dd>
            <code data-testid="plan-hash">{hash}</code>
            {expectedHash === "" ? null : expectedHash === hash ? (
              <span className="chip good">
                <Icon name="check" /> as the command line's
              </span>
            ) : (
              <span className="chip bad">the command line had {expectedHash}</span>
            )}
          </dd>
        </div>
        <div>
          <dt>again</dt>
          <dd>
            <code>{reproduction}</code>
          </dd>
        </div>
      </dl>
    </section>
  )
}
