import { useEffect, useState } from "react"
import { Icon, type IconName } from "../ui/Icon.tsx"
import { nextWaiting, type RunModel } from "./RunModel.ts"
import { stepOn } from "./TimelineCanvas.tsx"

interface Props {
  readonly model: RunModel
  readonly step: number
  readonly onStep: (step: number) => void
  readonly onZoom: (factor: number) => void
  readonly onFit: () => void
  readonly onBranch: () => void
  readonly canBranch: boolean
}

/** Steps forwards and back, goes to a step by its number, and branches. */
export const Transport = ({ model, step, onStep, onZoom, onFit, onBranch, canBranch }: Props) => {
  const { count } = model.result.timeline.steps
  const [typed, setTyped] = useState("")
  useEffect(() => setTyped(step < 0 ? "" : String(step + 1)), [step])
  const go = () => {
    const number = Number(typed.replaceAll(/[ ,]/g, ""))
    if (Number.isInteger(number) && number >= 1) onStep(Math.min(count, number) - 1)
    else setTyped(step < 0 ? "" : String(step + 1))
  }
  const button = (icon: IconName, label: string, act: () => void, isOff = count === 0) => (
    <button type="button" className="quiet" aria-label={label} title={label} onClick={act} disabled={isOff}>
      <Icon name={icon} />
    </button>
  )
  return (
    <div className="transport" role="toolbar" aria-label="Steps">
      {button("first", "First step", () => onStep(0))}
      {button("previous", "Previous step (←)", () => onStep(stepOn(model, step, -1)))}
      <form
        onSubmit={(event) => {
          event.preventDefault()
          go()
        }}
      >
        <label className="step-number">
          <span className="visually-hidden">Step number</span>
          <input
            inputMode="numeric"
            value={typed}
            placeholder="step"
            onChange={(event) => setTyped(event.target.value)}
            onBlur={go}
          />
          <span className="soft">of {count.toLocaleString("en")}</span>
        </label>
      </form>
      {button("next", "Next step (→)", () => onStep(stepOn(model, step, 1)))}
      {button("last", "Last step", () => onStep(count - 1))}
      {button("wait", "Next step where a prompt waits (n)", () => onStep(nextWaiting(model, step)))}
      <span className="divider" />
      {button("minus", "Zoom out (s)", () => onZoom(1 / 0.6))}
      {button("plus", "Zoom in (w)", () => onZoom(0.6))}
      {button("fit", "Show the whole run (f)", onFit)}
      <span className="divider" />
      <button type="button" className="accent" onClick={onBranch} disabled={!canBranch} title="Branch at this step (b)">
        <Icon name="branch" /> Branch here
      </button>
    </div>
  )
}
