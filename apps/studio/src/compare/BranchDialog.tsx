import type { ScenarioChange } from "@uniprefill/simulator/scenario/Scenario"
import { useState } from "react"
import { timeLabel } from "../layout/Ticks.ts"
import { changeText } from "../state/Draft.ts"
import { useStudio, useStudioState } from "../state/Context.ts"
import type { Run } from "../state/StudioState.ts"
import { Dialog } from "../ui/Dialog.tsx"
import { Icon } from "../ui/Icon.tsx"

const kinds = ["policy", "budget", "keep", "abort", "burst", "slow"] as const
type Kind = (typeof kinds)[number]

const titles: Readonly<Record<Kind, string>> = {
  policy: "Another policy",
  budget: "Another step budget",
  keep: "Keep other shares",
  abort: "A client gives up",
  burst: "A burst of requests",
  slow: "A slower device",
}

/** One thing to change at the selected step; the run goes on from there beside the one at hand. */
export const BranchDialog = ({ run, onClose }: { readonly run: Run; readonly onClose: () => void }) => {
  const studio = useStudio()
  const sight = useStudioState((state) => state.sight)
  const selection = useStudioState((state) => state.selection)
  const policies = useStudioState((state) => state.fields.find(({ path }) => path === "policy")?.control)
  const { meta } = run.model!.result
  const [kind, setKind] = useState<Kind>("policy")
  const [policy, setPolicy] = useState(meta.policy === "shortest-prefill" ? "fcfs" : "shortest-prefill")
  const [budget, setBudget] = useState("20")
  const [keep, setKeep] = useState("0.5, 0.3")
  const [request, setRequest] = useState(selection.request >= 0 ? String(selection.request + 1) : "1")
  const [burst, setBurst] = useState({ requests: "20", prompt: "16384", output: "200" })
  const [slow, setSlow] = useState({ replica: "all", factor: "3", seconds: "10" })
  const moment = sight?.moment
  const isReady = moment !== undefined && moment !== null && sight!.selection.step === selection.step
  const whole = (text: string) => Math.round(Number(text))
  const changeOf = (atMicros: number): ScenarioChange => {
    switch (kind) {
      case "policy":
        return { atMicros, policy }
      case "budget":
        return { atMicros, stepBudgetMs: Number(budget) }
      case "keep":
        return { atMicros, keep: keep === "paper" ? keep : keep.split(",").map(Number) }
      case "abort":
        return { atMicros, abort: [whole(request)] }
      case "burst":
        return {
          atMicros,
          burst: {
            requests: whole(burst.requests),
            promptTokens: lengths(burst.prompt),
            outputTokens: lengths(burst.output),
          },
        }
      case "slow":
        return {
          atMicros,
          slow: {
            ...(slow.replica === "all" ? {} : { replica: Number(slow.replica) }),
            factor: Number(slow.factor),
            seconds: Number(slow.seconds),
          },
        }
    }
  }
  const begin = () => {
    if (!isReady) return
    onClose()
    void studio.branch(run, selection.step, changeOf(moment.state.nowMicros))
  }
  const text = (label: string, value: string, onChange: (value: string) => void, unit = "") => (
    <label className="field-inline">
      <span>{label}</span>
      <input value={value} onChange={(event) => onChange(event.target.value)} />
      <span className="soft">{unit}</span>
    </label>
  )
  return (
    <Dialog title={`Branch run ${run.letter} at step ${selection.step + 1}`} onClose={onClose}>
      <form
        className="branch-form"
        onSubmit={(event) => {
          event.preventDefault()
          begin()
        }}
      >
        <p className="soft">
          {isReady
            ? `Up to ${timeLabel(moment.state.nowMicros, 1)} both runs are the same, request by request and draw by draw. One thing changes there.`
            : "Looking up the moment of this step …"}
        </p>
        <fieldset className="kinds">
          <legend className="visually-hidden">What changes</legend>
          {kinds.map((one) => (
            <label key={one} className={one === kind ? "kind on" : "kind"}>
              <input
                type="radio"
                name="kind"
                data-first={one === kind ? true : undefined}
                checked={one === kind}
                onChange={() => setKind(one)}
              />
              {titles[one]}
            </label>
          ))}
        </fieldset>
        <div className="kind-fields">
          {kind === "policy" ? (
            <label className="field-inline">
              <span>Prompts are served by</span>
              <select value={policy} onChange={(event) => setPolicy(event.target.value)}>
                {(policies?.kind === "text" ? policies.known : []).map((name) => (
                  <option key={name}>{name}</option>
                ))}
              </select>
            </label>
          ) : null}
          {kind === "budget" ? text("A step beside decodes may take", budget, setBudget, "ms") : null}
          {kind === "keep" ? text("Shares kept after the first … last selection", keep, setKeep) : null}
          {kind === "abort" ? text("Number of the request", request, setRequest) : null}
          {kind === "burst" ? (
            <>
              {text("Requests at that moment", burst.requests, (requests) => setBurst({ ...burst, requests }))}
              {text("Prompt tokens", burst.prompt, (prompt) => setBurst({ ...burst, prompt }))}
              {text("Output tokens", burst.output, (output) => setBurst({ ...burst, output }))}
            </>
          ) : null}
          {kind === "slow" ? (
            <>
              <label className="field-inline">
                <span>Device of</span>
                <select value={slow.replica} onChange={(event) => setSlow({ ...slow, replica: event.target.value })}>
                  <option value="all">all replicas</option>
                  {Array.from({ length: meta.replicas }, (_, replica) => (
                    <option key={replica} value={replica}>
                      replica {replica}
                    </option>
                  ))}
                </select>
              </label>
              {text("takes", slow.factor, (factor) => setSlow({ ...slow, factor }), "times as long")}
              {text("for", slow.seconds, (seconds) => setSlow({ ...slow, seconds }), "s")}
            </>
          ) : null}
        </div>
        <div className="row end">
          <button type="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" className="accent" disabled={!isReady}>
            <Icon name="branch" /> Run on with {changeText(changeOf(0))}
          </button>
        </div>
      </form>
    </Dialog>
  )
}

/** A number where it is one, else the text of a distribution. */
const lengths = (text: string): number | string => (/^\d+$/.test(text.trim()) ? Number(text) : text.trim())
