import { useState } from "react"
import type { FieldSpec } from "../protocol/Protocol.ts"
import { useStudio, useStudioState } from "../state/Context.ts"
import { changeText, type Draft, firstDraft } from "../state/Draft.ts"
import { timeLabel } from "../layout/Ticks.ts"
import { Icon } from "../ui/Icon.tsx"
import { FieldInput } from "./FieldInput.tsx"
import { Preview } from "./Preview.tsx"

/** Sections in order, and what is shown of them before someone asks for more. */
const sections: ReadonlyArray<{ readonly name: string; readonly title: string; readonly isOpen: boolean }> = [
  { name: "", title: "Model, devices, scheduling", isOpen: true },
  { name: "workload", title: "Requests", isOpen: true },
  { name: "slo", title: "Targets", isOpen: true },
  { name: "engine", title: "Engine", isOpen: false },
  { name: "host", title: "Time beside the device", isOpen: false },
  { name: "faults", title: "What goes wrong", isOpen: false },
]

const examples: ReadonlyArray<{ readonly title: string; readonly note: string; readonly draft: Draft }> = [
  { title: "A chat trace", note: "a slice of a real one, at half its rate", draft: firstDraft },
  {
    title: "Too much for one device",
    note: "the same at its own rate: the queue grows",
    draft: { values: { ...firstDraft.values, name: "Overload", "workload.rate": 1 }, changes: [] },
  },
  {
    title: "Long prompts, dense",
    note: "64K tokens each, nothing dropped",
    draft: {
      values: {
        name: "Long prompts, dense",
        schedule: "off",
        "workload.requests": 60,
        "workload.ratePerSecond": 0.15,
        "workload.promptTokens": 65_536,
        "workload.outputTokens": 300,
      },
      changes: [],
    },
  },
  {
    title: "Conversations",
    note: "sessions on two replicas, prefixes shared",
    draft: {
      values: {
        name: "Conversations",
        replicas: 2,
        router: "prefix-aware",
        "workload.arrivals": "sessions",
        "workload.requests": 400,
        "workload.ratePerSecond": 0.8,
        "workload.turns": 6,
        "workload.promptTokens": "lognormal:3000,0.8,30000",
      },
      changes: [],
    },
  },
]

/** The scenario as a form, and what it would run. */
export const ScenarioView = () => {
  const studio = useStudio()
  const fields = useStudioState((state) => state.fields)
  const draft = useStudioState((state) => state.draft)
  const checked = useStudioState((state) => state.checked)
  const isChecking = useStudioState((state) => state.isChecking)
  const [search, setSearch] = useState("")
  const faults = checked?.faults ?? []
  const placeless = faults.filter(({ path }) => !fields.some((field) => field.path === path))
  const canRun = checked !== null && faults.length === 0 && !isChecking
  return (
    <div className="split scenario">
      <aside className="inspector" aria-label="What would run">
        <div className="run-box">
          <button type="button" className="accent big" disabled={!canRun} onClick={() => void studio.run()}>
            <Icon name="play" /> Run
          </button>
          <p className="soft" role="status">
            {isChecking ? "checking …" : faults.length > 0 ? `${faults.length} to mend` : "ready"}
          </p>
        </div>
        {placeless.map(({ path, detail }) => (
          <p key={`${path}${detail}`} className="fault" role="alert">
            {path === "" ? "" : `${path}: `}
            {detail}
          </p>
        ))}
        {checked?.preview == null ? null : <Preview preview={checked.preview} />}
      </aside>
      <form
        className="stage form"
        aria-label="Scenario"
        onSubmit={(event) => event.preventDefault()}
        onKeyDown={(event) => {
          if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && canRun) void studio.run()
        }}
      >
        <div className="examples" role="group" aria-label="Examples">
          {examples.map(({ title, note, draft: example }) => (
            <button
              key={title}
              type="button"
              className="example"
              onClick={() => studio.replaceDraft(example, `${title} is open.`)}
            >
              <strong>{title}</strong>
              <span>{note}</span>
            </button>
          ))}
        </div>
        <div className="row between search">
          <label>
            <span className="visually-hidden">Find a field</span>
            <input
              type="search"
              placeholder="Find a field"
              value={search}
              onChange={(event) => setSearch(event.target.value)}
            />
          </label>
          <p className="soft">
            Drop a trace, a recording, a scenario or a file of the command line anywhere on this page.
          </p>
        </div>
        {sections.map((section) => (
          <Section key={section.name} {...section} fields={fields} search={search} />
        ))}
        {draft.changes.length > 0 ? (
          <fieldset className="changes">
            <legend>Changes during the run</legend>
            <ul>
              {draft.changes.map((change, i) => (
                <li key={`${change.atMicros}-${changeText(change)}`}>
                  <span>
                    at {timeLabel(change.atMicros, 1)}: {changeText(change)}
                  </span>
                  <button
                    type="button"
                    className="quiet"
                    aria-label={`Remove: ${changeText(change)}`}
                    onClick={() => studio.setDraft({ ...draft, changes: draft.changes.filter((_, at) => at !== i) })}
                  >
                    <Icon name="close" />
                  </button>
                </li>
              ))}
            </ul>
          </fieldset>
        ) : null}
      </form>
    </div>
  )
}

const Section = ({
  name,
  title,
  isOpen,
  fields,
  search,
}: {
  readonly name: string
  readonly title: string
  readonly isOpen: boolean
  readonly fields: ReadonlyArray<FieldSpec>
  readonly search: string
}) => {
  const studio = useStudio()
  const draft = useStudioState((state) => state.draft)
  const faults = useStudioState((state) => state.checked?.faults)
  const own = fields.filter(({ section }) => section === name)
  const wanted = search.trim().toLowerCase()
  const shown = own.filter(({ path, label, description }) =>
    `${path} ${label} ${description}`.toLowerCase().includes(wanted),
  )
  const set = own.filter(({ path }) => draft.values[path] !== undefined).length
  const bad = own.filter(({ path }) => faults?.some((fault) => fault.path === path)).length
  if (shown.length === 0) return null
  return (
    <details className="section group" open={isOpen || wanted !== "" || bad > 0 || undefined}>
      <summary>
        {title}
        {set > 0 ? <span className="chip">{set} set</span> : null}
        {bad > 0 ? <span className="chip bad">{bad} to mend</span> : null}
      </summary>
      <div className="fields">
        {shown.map((field) => (
          <FieldInput
            key={field.path}
            field={field}
            value={draft.values[field.path]}
            fault={faults?.find(({ path }) => path === field.path)?.detail ?? ""}
            onChange={(value) => studio.setField(field.path, value)}
          />
        ))}
      </div>
    </details>
  )
}
