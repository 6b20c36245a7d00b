import type { RequestDetail } from "@uniprefill/simulator/timetravel/StepState"
import { countLabel, durationLabel } from "../layout/Ticks.ts"
import { useStudio } from "../state/Context.ts"
import { statusLabel } from "../timeline/Describe.ts"
import type { RunModel } from "../timeline/RunModel.ts"
import { Icon } from "../ui/Icon.tsx"
import { KeptStrip } from "./KeptStrip.tsx"

interface Props {
  readonly model: RunModel
  readonly request: number
  readonly detail: RequestDetail | null
  readonly isDark: boolean
}

/** The selected request: what became of it in the run, and what it owned at the step. */
export const RequestSection = ({ model, request, detail, isDark }: Props) => {
  const studio = useStudio()
  const { requests, meta } = model.result
  const arrival = requests.arrival[request]!
  const after = (time: number) => (time < 0 ? "–" : durationLabel(time - arrival))
  const outputs = requests.outputs[request]!
  const tpot = outputs > 1 ? (requests.lastToken[request]! - requests.firstToken[request]!) / (outputs - 1) : -1
  const facts: ReadonlyArray<readonly [string, string]> = [
    ["prompt", `${countLabel(requests.promptTokens[request]!)} tokens`],
    ["output", `${countLabel(outputs)} tokens`],
    ["first scheduled after", after(requests.firstScheduled[request]!)],
    ["first token after", after(requests.firstToken[request]!)],
    ["time per output token", tpot < 0 ? "–" : durationLabel(tpot)],
    ["longest gap", outputs > 1 ? durationLabel(requests.maxGap[request]!) : "–"],
    ["found in the prefix cache", `${countLabel(requests.cachedTokens[request]!)} tokens`],
    ["preemptions", `${requests.preemptions[request]!}`],
  ]
  const held = detail?.tables.filter(({ slabs }) => slabs.length > 0) ?? []
  return (
    <section className="section request-section" aria-labelledby="request-title">
      <div className="row between">
        <h3 id="request-title">
          Request {request + 1} <span className="chip">{statusLabel(requests.status[request]!)}</span>
        </h3>
        <button
          type="button"
          className="quiet"
          aria-label="Select no request"
          onClick={() => studio.select({ request: -1 })}
        >
          <Icon name="close" />
        </button>
      </div>
      <dl className="facts two">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {detail === null ? (
        <p className="soft">The serving loop holds nothing of it at this step.</p>
      ) : (
        <>
          <h4>
            Kept blocks at this step{" "}
            {meta.origin === "recorded" ? (
              <span className="chip good">recorded</span>
            ) : (
              <span className="chip">simulated</span>
            )}
            {detail.state.isLowered ? <span className="chip warn">at a lower p</span> : null}
          </h4>
          {detail.state.drops ? (
            <KeptStrip kept={detail.kept} segments={meta.segmentLayers.length} isDark={isDark} />
          ) : (
            <p className="soft">It does not drop: every layer computes every row.</p>
          )}
          <details>
            <summary className="minor">Page tables</summary>
            {held.length === 0 ? <p className="soft">It owns no pages.</p> : null}
            <dl className="facts tables">
              {held.map(({ kind, segment, slabsPerPage, freedPages, slabs }) => (
                <div key={`${kind}${segment}`}>
                  <dt>
                    segment {segment} {kind}
                  </dt>
                  <dd>
                    {slabs.length / slabsPerPage} pages × {slabsPerPage}
                    {freedPages > 0 ? `, ${freedPages} given back` : ""}
                    <small className="slabs">{rangesText(slabs)}</small>
                  </dd>
                </div>
              ))}
            </dl>
          </details>
        </>
      )}
    </section>
  )
}

const mostRanges = 6

/** Slabs as ranges: 3–6, 81. */
export const rangesText = (slabs: ArrayLike<number>): string => {
  const ranges: Array<[number, number]> = []
  for (let i = 0; i < slabs.length; i++) {
    const slab = slabs[i]!
    const last = ranges.at(-1)
    if (last !== undefined && slab === last[1] + 1) last[1] = slab
    else ranges.push([slab, slab])
  }
  const shown = ranges.slice(0, mostRanges).map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`))
  return `${shown.join(", ")}${ranges.length > mostRanges ? `, … (${ranges.length} ranges)` : ""}`
}
