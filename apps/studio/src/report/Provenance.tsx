import { useId } from "react"
import type { RunResult } from "../protocol/Protocol.ts"
import { percent } from "../inspect/KeptStrip.tsx"
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
  const { provenance, hash, reproduction, meta } = result
  const { device, calibrated, outsideShare, keep, accuracy, assumptions } = provenance
  const verdict = !calibrated
    ? "nothing measured: datasheet peaks × assumed shares"
    : outsideShare > 0.5
      ? `extrapolated: ${percent(outsideShare)} of the steps lie outside of what was measured`
      : `calibrated; ${percent(outsideShare)} of the steps lie outside of what was measured`
  const id = useId()
  const isSound = calibrated && outsideShare <= 0.5
  return (
    <section className="provenance" aria-labelledby={id}>
      <h3 id={id}>What {letter === undefined ? "these figures rest" : `the figures of ${letter} rest`} on</h3>
      <dl className="facts">
        <div>
          <dt>step times</dt>
          <dd>
            <span className={`chip ${meta.origin === "recorded" || isSound ? "good" : "warn"}`}>
              {meta.origin === "recorded" ? "measured" : isSound ? "calibrated" : "not calibrated"}
            </span>{" "}
            {meta.origin === "recorded" ? "as recorded" : `${device}: ${verdict}`}
          </dd>
        </div>
        <div>
          <dt>rows kept</dt>
          <dd>{keep}</dd>
        </div>
        <div>
          <dt>accuracy</dt>
          <dd>{accuracy}</dd>
        </div>
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
