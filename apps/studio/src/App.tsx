import { type RefObject, useEffect, useRef, useState } from "react"
import { CompareView, titleOf } from "./compare/CompareView.tsx"
import { ReportView } from "./report/ReportView.tsx"
import { ScenarioView } from "./scenario/ScenarioView.tsx"
import { useStudio, useStudioState } from "./state/Context.ts"
import { type Run, type View, views } from "./state/StudioState.ts"
import { RunProgress, TimelineView } from "./timeline/TimelineView.tsx"
import type { TimelineHandle } from "./timeline/TimelineCanvas.tsx"
import { ExportDialog } from "./ui/ExportMenu.tsx"
import { HelpDialog } from "./ui/HelpDialog.tsx"
import { Boundary } from "./ui/Boundary.tsx"
import { Icon } from "./ui/Icon.tsx"
import { themeChoices, useTheme } from "./ui/Theme.ts"

const viewTitles: Readonly<Record<View, string>> = {
  scenario: "Scenario",
  timeline: "Timeline",
  compare: "Compare",
  report: "Report",
}

export const App = () => {
  const studio = useStudio()
  const view = useStudioState((state) => state.view)
  const runs = useStudioState((state) => state.runs)
  const currentId = useStudioState((state) => state.current)
  const failure = useStudioState((state) => state.failure)
  const [themeChoice, isDark, chooseTheme] = useTheme()
  const [dialog, setDialog] = useState<"none" | "help" | "export">("none")
  const picture = useRef<TimelineHandle>(null)
  const run = runs.find(({ id }) => id === currentId)
  const isDropping = useDrop((files) => void studio.open(files))
  const fileInput = useRef<HTMLInputElement>(null)
  const main = useRef<HTMLElement>(null)

  // Another view begins at its top.
  useEffect(() => {
    main.current?.scrollTo(0, 0)
    window.scrollTo(0, 0)
  }, [view, currentId])

  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement
      if (event.altKey || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName)) return
      if (event.key === "?") setDialog("help")
      const next = views[Number(event.key) - 1]
      if (next !== undefined) studio.show(next)
    }
    const onHash = () => void studio.follow(window.location.hash)
    window.addEventListener("keydown", onKey)
    window.addEventListener("hashchange", onHash)
    return () => {
      window.removeEventListener("keydown", onKey)
      window.removeEventListener("hashchange", onHash)
    }
  }, [studio])

  return (
    <div className="app">
      <header className="top">
        <h1>
          <img src="./icon.svg" alt="" width="22" height="22" /> <span>uniprefill</span> studio
        </h1>
        <nav aria-label="Views">
          {views.map((one, i) => (
            <button
              key={one}
              type="button"
              className={one === view ? "tab on" : "tab"}
              aria-current={one === view ? "page" : undefined}
              title={`${viewTitles[one]} (${i + 1})`}
              onClick={() => studio.show(one)}
            >
              {viewTitles[one]}
            </button>
          ))}
        </nav>
        <div className="row tools">
          <button type="button" className="quiet" onClick={() => fileInput.current!.click()} title="Open a file">
            <Icon name="file" /> <span className="wide-only">Open</span>
          </button>
          <input
            ref={fileInput}
            type="file"
            hidden
            multiple
            aria-label="Open a file"
            data-testid="file-input"
            onChange={(event) => {
              const files = [...(event.target.files ?? [])]
              event.target.value = ""
              void studio.open(files)
            }}
          />
          <button
            type="button"
            className="quiet"
            disabled={run?.status !== "done"}
            onClick={() => setDialog("export")}
            title="Export"
          >
            <Icon name="save" /> <span className="wide-only">Export</span>
          </button>
          <label className="theme">
            <span className="visually-hidden">Theme</span>
            <Icon name="theme" />
            <select value={themeChoice} onChange={(event) => chooseTheme(event.target.value as typeof themeChoice)}>
              {themeChoices.map((one) => (
                <option key={one}>{one}</option>
              ))}
            </select>
          </label>
          <button type="button" className="quiet" aria-label="Keys" title="Keys (?)" onClick={() => setDialog("help")}>
            <Icon name="help" />
          </button>
        </div>
      </header>
      {runs.length > 0 ? <Runs runs={runs} current={currentId} /> : null}
      <Notices />
      <main ref={main}>
        {failure === "" ? (
          <Boundary key={`${view} ${currentId}`}>
            <Content view={view} run={run} isDark={isDark} picture={picture} />
          </Boundary>
        ) : (
          <div className="empty" role="alert">
            <h2>The page could not start</h2>
            <p>{failure}</p>
          </div>
        )}
      </main>
      {isDropping ? (
        <div className="dropping" aria-hidden="true">
          <p>
            <Icon name="file" /> Drop it: a trace, a recording, a scenario, a run of the command line
          </p>
        </div>
      ) : null}
      {dialog === "help" ? <HelpDialog onClose={() => setDialog("none")} /> : null}
      {dialog === "export" && run?.model != null ? (
        <ExportDialog run={run} picture={picture} onClose={() => setDialog("none")} />
      ) : null}
    </div>
  )
}

const Content = ({
  view,
  run,
  isDark,
  picture,
}: {
  readonly view: View
  readonly run: Run | undefined
  readonly isDark: boolean
  readonly picture: RefObject<TimelineHandle | null>
}) => {
  const studio = useStudio()
  if (view === "scenario") return <ScenarioView />
  if (run === undefined)
    return (
      <div className="empty">
        <h2>No run yet</h2>
        <p>Make a scenario and run it: its steps are then shown here.</p>
        <button type="button" className="accent" onClick={() => studio.show("scenario")}>
          To the scenario
        </button>
      </div>
    )
  if (run.status === "running") return <RunProgress run={run} />
  if (run.model === null)
    return (
      <div className="empty" role="alert">
        <h2>Run {run.letter} could not be made</h2>
        <p className="fault">{run.error}</p>
        <div className="row">
          <button type="button" className="accent" onClick={() => void studio.again(run)}>
            Run it again
          </button>
          <button type="button" onClick={() => studio.closeRun(run.id)}>
            Close it
          </button>
          <button type="button" onClick={() => studio.show("scenario")}>
            To the scenario
          </button>
        </div>
      </div>
    )
  if (view === "timeline")
    return <TimelineView key={run.id} run={run} model={run.model} isDark={isDark} handle={picture} />
  if (view === "compare") return <CompareView run={run} model={run.model} isDark={isDark} />
  return <ReportView run={run} model={run.model} isDark={isDark} />
}

const Runs = ({ runs, current }: { readonly runs: ReadonlyArray<Run>; readonly current: number }) => {
  const studio = useStudio()
  return (
    <div className="runs" role="group" aria-label="Runs">
      {runs.map((run) => (
        <span key={run.id} className={run.id === current ? "run on" : "run"}>
          <button type="button" aria-pressed={run.id === current} onClick={() => studio.choose(run.id)}>
            <span className="letter">{run.letter}</span>
            <span className="run-title">
              {run.parent === null ? "" : `${runs.find(({ id }) => id === run.parent!.id)?.letter ?? "…"} + `}
              {titleOf(run)}
            </span>
            {run.status === "running" ? <span className="soft">…</span> : null}
            {run.status === "failed" ? <span className="chip bad">failed</span> : null}
            {run.model === null ? null : (
              <code title="Plan hash: equal to the command line's">{run.model.result.hash.slice(0, 8)}</code>
            )}
          </button>
          <button
            type="button"
            className="quiet"
            aria-label={`Close run ${run.letter}`}
            onClick={() => studio.closeRun(run.id)}
          >
            <Icon name="close" />
          </button>
        </span>
      ))}
    </div>
  )
}

const Notices = () => {
  const studio = useStudio()
  const notices = useStudioState((state) => state.notices)
  return (
    <div className="notices" aria-live="polite">
      {notices.map(({ id, kind, text, aside }) => (
        <div key={id} className={`notice ${kind}`} role={kind === "error" ? "alert" : "status"}>
          <p>{text}</p>
          {aside === null ? null : (
            <button
              type="button"
              className="link"
              onClick={() => {
                studio.setDraft(aside)
                studio.dismiss(id)
              }}
            >
              Bring my scenario back
            </button>
          )}
          <button type="button" className="quiet" aria-label="Dismiss" onClick={() => studio.dismiss(id)}>
            <Icon name="close" />
          </button>
        </div>
      ))}
    </div>
  )
}

/** Whether files are being dragged over the page; calls `onDrop` with those that are dropped. */
const useDrop = (onDrop: (files: ReadonlyArray<File>) => void): boolean => {
  const [isOver, setIsOver] = useState(false)
  const act = useRef(onDrop)
  useEffect(() => {
    act.current = onDrop
  }, [onDrop])
  useEffect(() => {
    const over = (event: DragEvent) => {
      event.preventDefault()
      setIsOver(true)
    }
    const leave = (event: DragEvent) => {
      if (event.relatedTarget === null) setIsOver(false)
    }
    const drop = (event: DragEvent) => {
      event.preventDefault()
      setIsOver(false)
      const files = [...(event.dataTransfer?.files ?? [])]
      if (files.length > 0) act.current(files)
    }
    window.addEventListener("dragover", over)
    window.addEventListener("dragleave", leave)
    window.addEventListener("drop", drop)
    return () => {
      window.removeEventListener("dragover", over)
      window.removeEventListener("dragleave", leave)
      window.removeEventListener("drop", drop)
    }
  }, [])
  return isOver
}
