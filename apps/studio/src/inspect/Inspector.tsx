import type { StepState } from "@uniprefill/simulator/timetravel/StepState"
import { useStudio, useStudioState } from "../state/Context.ts"
import { Provenance } from "../report/Provenance.tsx"
import { RunFigures } from "../report/RunFigures.tsx"
import { nextWaiting, type RunModel } from "../timeline/RunModel.ts"
import { durationLabel, timeLabel } from "../layout/Ticks.ts"
import { HoldsSection } from "./HoldsSection.tsx"
import { MemorySection } from "./MemorySection.tsx"
import { RequestSection } from "./RequestSection.tsx"
import { RequestTable } from "./RequestTable.tsx"
import { TimeSection } from "./TimeSection.tsx"
import { WhySection } from "./WhySection.tsx"

/** Everything about the selected step, and about the selected request in it. */
export const Inspector = ({
  model,
  expectedHash,
  isDark,
}: {
  readonly model: RunModel
  readonly expectedHash: string
  readonly isDark: boolean
}) => {
  const studio = useStudio()
  const selection = useStudioState((state) => state.selection)
  const sight = useStudioState((state) => state.sight)
  const { steps } = model.result.timeline
  if (steps.count === 0) {
    const why = model.result.ended === "stopped" ? "it was stopped before the first" : "nothing was served"
    return <p className="empty">The run has no steps: {why}.</p>
  }
  if (selection.step < 0)
    return (
      <div className="sections">
        <div className="pick">
          <h2>Pick a step</h2>
          <p>
            Every slice is one step of the device. Click one, or step with the arrow keys, to see what it holds and why.
          </p>
          <div className="row wrap">
            <button type="button" onClick={() => studio.select({ step: 0 })}>
              First step
            </button>
            <button type="button" onClick={() => studio.select({ step: nextWaiting(model, -1) })}>
              First step where a prompt waits
            </button>
          </div>
        </div>
        <RunFigures result={model.result} />
        <Provenance result={model.result} expectedHash={expectedHash} />
      </div>
    )
  if (sight?.moment === null && sight.error !== "")
    return (
      <div className="empty" role="alert">
        <h2>This step cannot be shown</h2>
        <p>{sight.error}</p>
        <button type="button" onClick={() => void studio.again(studio.current!)}>
          Run it again
        </button>
      </div>
    )
  const state = sight?.moment?.state
  if (sight === null || state === undefined) return <p className="empty soft">Replaying up to the step …</p>
  const request = sight.selection.request
  const segments = model.result.meta.segmentLayers.length
  return (
    <div className="sections" aria-busy={sight.selection.step !== selection.step}>
      <StepHead state={state} step={sight.selection.step} replicas={model.result.meta.replicas} />
      {request >= 0 ? (
        <RequestSection model={model} request={request} detail={sight.moment!.detail} isDark={isDark} />
      ) : null}
      <HoldsSection state={state} segments={segments} isDark={isDark} />
      <WhySection state={state} />
      <TimeSection state={state} segments={segments} isDark={isDark} />
      <RequestTable state={state} />
      <MemorySection state={state} />
    </div>
  )
}

const StepHead = ({
  state,
  step,
  replicas,
}: {
  readonly state: StepState
  readonly step: number
  readonly replicas: number
}) => {
  const { startMicros, endMicros, plannedMicros, budgetMicros, tokenBudget, failed, deviceMicros } = state
  const scale = Math.max(budgetMicros, endMicros - startMicros, plannedMicros) * 1.04
  return (
    <header className="step-head">
      <div className="row between">
        <h2>
          Step {state.step.toLocaleString("en")}
          {failed ? <span className="chip bad">failed</span> : null}
        </h2>
        <strong className="figure">{durationLabel(deviceMicros)}</strong>
      </div>
      <p className="soft">
        planned at {timeLabel(state.nowMicros, 1)}
        {replicas > 1 ? `, replica ${state.replica}, number ${(step + 1).toLocaleString("en")} of the run` : ""} ·{" "}
        {state.policy}
      </p>
      {tokenBudget === null ? (
        <div
          className="budget"
          role="img"
          aria-label={`${durationLabel(deviceMicros)} on the device, ${durationLabel(plannedMicros)} predicted, budget ${durationLabel(budgetMicros)}`}
        >
          <i className="budget-fill" style={{ width: `${((endMicros - startMicros) / scale) * 100}%` }} />
          <i className="budget-planned" style={{ left: `${(plannedMicros / scale) * 100}%` }} />
          <i className="budget-limit" style={{ left: `${(budgetMicros / scale) * 100}%` }} />
        </div>
      ) : null}
      <p className="soft legend-line">
        <span>predicted {durationLabel(plannedMicros)}</span>
        <span>
          {tokenBudget === null ? `budget ${durationLabel(budgetMicros)}` : `at most ${tokenBudget} rows a step`}
        </span>
      </p>
    </header>
  )
}
