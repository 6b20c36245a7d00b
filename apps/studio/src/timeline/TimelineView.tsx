import { type KeyboardEvent, type RefObject, useEffect, useMemo, useState } from "react"
import { groupings, sortings, type Grouping, type Sorting } from "../layout/RequestRows.ts"
import { BranchDialog } from "../compare/BranchDialog.tsx"
import { Inspector } from "../inspect/Inspector.tsx"
import { useStudio, useStudioState } from "../state/Context.ts"
import type { Run } from "../state/StudioState.ts"
import { Icon } from "../ui/Icon.tsx"
import type { RowChoice } from "./Controller.ts"
import type { Hit } from "./Hit.ts"
import { Legend } from "./Legend.tsx"
import { nextWaiting, type RunModel, stepSpan } from "./RunModel.ts"
import { SharedView } from "./SharedView.ts"
import { stepOn, TimelineCanvas, type TimelineHandle } from "./TimelineCanvas.tsx"
import { Transport } from "./Transport.tsx"

interface Props {
  readonly run: Run
  readonly model: RunModel
  readonly isDark: boolean
  readonly handle: RefObject<TimelineHandle | null>
}

/** A run over time, and any of its steps in detail. */
export const TimelineView = ({ run, model, isDark, handle }: Props) => {
  const studio = useStudio()
  const selection = useStudioState((state) => state.selection)
  const [choice, setChoice] = useState<RowChoice>({ sorting: "arrival", grouping: "none", onlyInView: true })
  const [branching, setBranching] = useState(false)
  const view = useMemo(() => new SharedView(), [])

  useEffect(() => view.open(model.bounds), [view, model])
  useEffect(() => {
    if (selection.step < 0) return
    const { from, to } = stepSpan(model, selection.step)
    view.reveal(from, to)
  }, [view, model, selection.step])

  const choose = (step: number) => studio.select({ step })
  const onPick = (hit: Hit) => {
    if (hit.kind === "step") choose(hit.step)
    if (hit.kind === "request") studio.select({ request: hit.request, ...(hit.step < 0 ? {} : { step: hit.step }) })
  }
  const zoomToStep = () => {
    if (selection.step < 0) return
    const { from, to } = stepSpan(model, selection.step)
    view.show({ from: from - (to - from) * 2, to: to + (to - from) * 2 })
  }
  const onKey = (event: KeyboardEvent) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return
    const last = model.result.timeline.steps.count - 1
    const by = event.shiftKey ? 100 : 1
    const acts: Readonly<Record<string, () => void>> = {
      ArrowRight: () => choose(stepOn(model, selection.step, by)),
      ArrowLeft: () => choose(stepOn(model, selection.step, -by)),
      ArrowDown: () => studio.select({ request: handle.current!.neighbour(1) }),
      ArrowUp: () => studio.select({ request: handle.current!.neighbour(-1) }),
      Home: () => choose(0),
      End: () => choose(last),
      PageDown: () => view.pan(0.8),
      PageUp: () => view.pan(-0.8),
      d: () => view.pan(0.2),
      a: () => view.pan(-0.2),
      w: () => view.zoom(0.7),
      s: () => view.zoom(1 / 0.7),
      "+": () => view.zoom(0.7),
      "=": () => view.zoom(0.7),
      "-": () => view.zoom(1 / 0.7),
      f: () => view.show(model.bounds),
      z: zoomToStep,
      n: () => choose(nextWaiting(model, selection.step)),
      b: () => setBranching(selection.step >= 0),
      Escape: () => studio.select({ request: -1 }),
    }
    const act = acts[event.key] ?? acts[event.key.toLowerCase()]
    if (act === undefined) return
    event.preventDefault()
    act()
  }
  return (
    <div className="split">
      <section className="stage" aria-label="Timeline">
        <Legend model={model} isDark={isDark} />
        <TimelineCanvas
          model={model}
          view={view}
          isDark={isDark}
          step={selection.step}
          request={selection.request}
          choice={choice}
          label={`Steps of run ${run.letter}`}
          onPick={onPick}
          onKey={onKey}
          handle={handle}
        />
        <div className="stage-foot">
          <Transport
            model={model}
            step={selection.step}
            onStep={choose}
            onZoom={(factor) => view.zoom(factor)}
            onFit={() => view.show(model.bounds)}
            onBranch={() => setBranching(true)}
            canBranch={selection.step >= 0 && model.result.meta.origin === "simulated"}
          />
          <Rows choice={choice} onChange={setChoice} />
        </div>
      </section>
      <aside className="inspector" aria-label="The selected step" tabIndex={-1}>
        <Inspector model={model} expectedHash={run.expectedHash} isDark={isDark} />
      </aside>
      {branching ? <BranchDialog run={run} onClose={() => setBranching(false)} /> : null}
    </div>
  )
}

const Rows = ({ choice, onChange }: { readonly choice: RowChoice; readonly onChange: (choice: RowChoice) => void }) => (
  <div className="rows-choice">
    <label>
      Sort requests by
      <select
        value={choice.sorting}
        onChange={(event) => onChange({ ...choice, sorting: event.target.value as Sorting })}
      >
        {sortings.map((name) => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </label>
    <label>
      group by
      <select
        value={choice.grouping}
        onChange={(event) => onChange({ ...choice, grouping: event.target.value as Grouping })}
      >
        {groupings.map((name) => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </label>
    <label className="check">
      <input
        type="checkbox"
        checked={choice.onlyInView}
        onChange={(event) => onChange({ ...choice, onlyInView: event.target.checked })}
      />
      only those in view
    </label>
  </div>
)

export const RunProgress = ({ run }: { readonly run: Run }) => {
  const studio = useStudio()
  const { progress } = run
  const share = progress === null || progress.total === 0 ? 0 : progress.done / progress.total
  return (
    <div className="running" role="status">
      <h2>
        Simulating {run.letter}: {run.title}
      </h2>
      <progress max={1} value={share} aria-label="Requests done" />
      <p className="figures">
        {progress === null ? (
          "starting …"
        ) : (
          <>
            <span>
              {progress.done.toLocaleString("en")} of {progress.total.toLocaleString("en")} requests
            </span>
            <span>{progress.steps.toLocaleString("en")} steps</span>
            <span>{(progress.nowMicros / 1e6).toFixed(1)} s simulated</span>
            <span>{progress.waiting} waiting</span>
            <span>{progress.running} running</span>
          </>
        )}
      </p>
      <button type="button" onClick={() => studio.stopRun(run.id)}>
        <Icon name="stop" /> Stop here
      </button>
    </div>
  )
}
