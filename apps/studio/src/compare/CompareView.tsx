import { useEffect, useMemo } from "react"
import { firstDifference } from "../state/Difference.ts"
import { changeText } from "../state/Draft.ts"
import { useStudio, useStudioState } from "../state/Context.ts"
import type { Run } from "../state/StudioState.ts"
import { timeLabel } from "../layout/Ticks.ts"
import type { Hit } from "../timeline/Hit.ts"
import type { RunModel } from "../timeline/RunModel.ts"
import { SharedView } from "../timeline/SharedView.ts"
import { TimelineCanvas } from "../timeline/TimelineCanvas.tsx"
import { Chart } from "../ui/Chart.tsx"
import { cdfOf } from "../report/Figures.ts"
import { Provenance } from "../report/Provenance.tsx"
import { DifferenceTable } from "./DifferenceTable.tsx"

interface Props {
  readonly run: Run
  readonly model: RunModel
  readonly isDark: boolean
}

const choice = { sorting: "arrival", grouping: "none", onlyInView: true } as const

/** Two runs one above the other, over the same time, and what differs between them. */
export const CompareView = ({ run, model, isDark }: Props) => {
  const studio = useStudio()
  const runs = useStudioState((state) => state.runs)
  const otherId = useStudioState((state) => state.other)
  const done = runs.filter((one) => one.status === "done" && one.id !== run.id)
  const other = done.find(({ id }) => id === otherId) ?? done[0]
  if (other?.model == null)
    return (
      <div className="empty">
        <h2>Nothing to compare with</h2>
        <p>
          Branch at a step of the timeline, or run another scenario: two runs are then held against each other here.
        </p>
        <button type="button" onClick={() => studio.show("timeline")}>
          To the timeline
        </button>
      </div>
    )
  return (
    <div className="compare">
      <header className="compare-head">
        <label className="field-inline">
          <span>Hold {run.letter} against</span>
          <select value={other.id} onChange={(event) => studio.compareWith(Number(event.target.value))}>
            {done.map((one) => (
              <option key={one.id} value={one.id}>
                {one.letter}: {titleOf(one)}
              </option>
            ))}
          </select>
        </label>
      </header>
      <Pair base={other} baseModel={other.model} run={run} model={model} isDark={isDark} />
    </div>
  )
}

export const titleOf = (run: Run): string => (run.parent === null ? run.title : changeText(run.parent.change))

const Pair = ({
  base,
  baseModel,
  run,
  model,
  isDark,
}: Props & { readonly base: Run; readonly baseModel: RunModel }) => {
  const studio = useStudio()
  const view = useMemo(() => new SharedView(), [])
  const difference = useMemo(
    () => firstDifference(baseModel.result.timeline, model.result.timeline),
    [baseModel, model],
  )
  useEffect(() => {
    view.open({ from: 0, to: Math.max(baseModel.bounds.to, model.bounds.to) })
    if (difference !== null) view.reveal(difference.micros, difference.micros)
  }, [view, baseModel, model, difference])
  const onPick = (one: Run) => (hit: Hit) => {
    if (hit.kind !== "step" && hit.kind !== "request") return
    studio.choose(one.id)
    studio.show("timeline")
    studio.select({ step: hit.step, ...(hit.kind === "request" ? { request: hit.request } : {}) })
  }
  const zoomToDifference = () => {
    if (difference === null) return
    view.show({ from: difference.micros - 400_000, to: difference.micros + 1_600_000 })
  }
  const colours = isDark ? (["#98a3b0", "#78aefc"] as const) : (["#7a8593", "#1f5fd0"] as const)
  const curves = (of: (one: RunModel) => ReadonlyArray<readonly [number, number]>) => [
    { name: base.letter, colour: colours[0], points: of(baseModel) },
    { name: run.letter, colour: colours[1], points: of(model) },
  ]
  const ttft = useMemo(() => curves((one) => ttftCdf(one)), [baseModel, model, isDark])
  const itl = useMemo(() => curves(({ result }) => result.itlCdf), [baseModel, model, isDark])
  return (
    <>
      <p className="verdict" role="status">
        {difference === null ? (
          <>
            Runs {base.letter} and {run.letter} make the same plans.
          </>
        ) : (
          <>
            The first {difference.step.toLocaleString("en")} steps are the same; they part at{" "}
            {timeLabel(difference.micros, 1)}.{" "}
            <button type="button" className="link" onClick={zoomToDifference}>
              Show where
            </button>
          </>
        )}
      </p>
      <div className="pair">
        {[
          { one: base, of: baseModel },
          { one: run, of: model },
        ].map(({ one, of }) => (
          <section key={one.id} className="future" aria-label={`Run ${one.letter}`}>
            <h3>
              <span className="letter">{one.letter}</span> {titleOf(one)}
            </h3>
            <TimelineCanvas
              model={of}
              view={view}
              isDark={isDark}
              step={difference === null ? -1 : Math.min(difference.step, of.result.timeline.steps.count - 1)}
              request={-1}
              choice={choice}
              label={`Steps of run ${one.letter}`}
              onPick={onPick(one)}
              onKey={(event) => {
                const acts: Readonly<Record<string, () => void>> = {
                  ArrowRight: () => view.pan(0.1),
                  ArrowLeft: () => view.pan(-0.1),
                  w: () => view.zoom(0.7),
                  s: () => view.zoom(1 / 0.7),
                  f: () => view.show(view.bounds),
                  z: zoomToDifference,
                }
                const act = acts[event.key]
                if (act === undefined) return
                event.preventDefault()
                act()
              }}
            />
          </section>
        ))}
      </div>
      <DifferenceTable base={base} run={run} />
      <div className="charts">
        <Chart
          title="Time to first token"
          said={`runs ${base.letter} and ${run.letter}`}
          xLabel="TTFT, ms"
          yLabel="share of requests"
          isLog
          yRange={unit}
          isDark={isDark}
          series={ttft}
        />
        <Chart
          title="Gap between two tokens"
          said={`runs ${base.letter} and ${run.letter}`}
          xLabel="ITL, ms"
          yLabel="share of gaps"
          isLog
          yRange={unit}
          isDark={isDark}
          series={itl}
        />
      </div>
      <Provenance result={model.result} expectedHash={run.expectedHash} letter={run.letter} />
      {sameGrounds(model, baseModel) ? null : (
        <Provenance result={baseModel.result} expectedHash={base.expectedHash} letter={base.letter} />
      )}
    </>
  )
}

const unit = [0, 1] as const

/** Whether the figures of two runs rest on the same things. */
const sameGrounds = (a: RunModel, b: RunModel): boolean => {
  const [one, other] = [a.result.provenance, b.result.provenance]
  return one.device === other.device && one.keep === other.keep && one.accuracy === other.accuracy
}

const ttftCdf = ({ result }: RunModel): ReadonlyArray<readonly [number, number]> =>
  result.report?.ttftCdf ??
  cdfOf(result.requests, (row) => result.requests.firstToken[row]! - result.requests.arrival[row]!)
