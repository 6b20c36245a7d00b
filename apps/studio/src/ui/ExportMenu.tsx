import { type RefObject, useState } from "react"
import { useStudio } from "../state/Context.ts"
import { fileName, requestsCsv, save, stepsCsv } from "../state/Exports.ts"
import type { Run } from "../state/StudioState.ts"
import type { TimelineHandle } from "../timeline/TimelineCanvas.tsx"
import { Dialog } from "./Dialog.tsx"
import { Icon } from "./Icon.tsx"

interface Props {
  readonly run: Run
  readonly picture: RefObject<TimelineHandle | null>
  readonly onClose: () => void
}

/** A run as a file, or as a link. */
export const ExportDialog = ({ run, picture, onClose }: Props) => {
  const studio = useStudio()
  const [said, setSaid] = useState("")
  const [link, setLink] = useState("")
  const { result } = run.model!
  const name = `${result.name} ${run.letter}`
  const attempt = (act: () => Promise<string>) => () => {
    setSaid("…")
    act().then(setSaid, (error: unknown) => setSaid(error instanceof Error ? error.message : String(error)))
  }
  const file = (ending: string, type: string, make: () => string | Promise<string>) =>
    attempt(async () => {
      const saved = fileName(name, ending)
      save(saved, await make(), type)
      return `saved ${saved}`
    })
  const isSimulated = result.meta.origin === "simulated"
  return (
    <Dialog title={`Export run ${run.letter}`} onClose={onClose}>
      <ul className="exports">
        <li>
          <button
            type="button"
            onClick={file("json", "application/json", () => `${JSON.stringify(result.json, null, 2)}\n`)}
          >
            <Icon name="save" /> JSON
          </button>
          <span>
            {isSimulated ? "the figures, as uniprefill-sim run --json writes them" : "what came of the replay"}
          </span>
        </li>
        <li>
          <button type="button" onClick={file("requests.csv", "text/csv", () => requestsCsv(result))}>
            <Icon name="save" /> Requests as CSV
          </button>
          <span>a line for each request</span>
        </li>
        <li>
          <button type="button" onClick={file("steps.csv", "text/csv", () => stepsCsv(result))}>
            <Icon name="save" /> Steps as CSV
          </button>
          <span>a line for each step</span>
        </li>
        <li>
          <button
            type="button"
            disabled={!isSimulated}
            onClick={file("perfetto.json", "application/json", () => studio.perfetto(run))}
          >
            <Icon name="save" /> Perfetto
          </button>
          <span>for ui.perfetto.dev, the first 50,000 steps</span>
        </li>
        <li>
          <button
            type="button"
            disabled={picture.current === null}
            onClick={attempt(async () => {
              const saved = fileName(name, "png")
              save(saved, await picture.current!.picture())
              return `saved ${saved}`
            })}
          >
            <Icon name="save" /> PNG
          </button>
          <span>{picture.current === null ? "of the timeline: open it first" : "the timeline as it is shown"}</span>
        </li>
        <li>
          <button
            type="button"
            disabled={!isSimulated}
            onClick={file(
              "scenario.json",
              "application/json",
              () => `${JSON.stringify({ format: "uniprefill-scenario", version: 1, ...run.scenario }, null, 2)}\n`,
            )}
          >
            <Icon name="save" /> Scenario
          </button>
          <span>for this page and the command line, changes included</span>
        </li>
        <li>
          <button
            type="button"
            disabled={!isSimulated}
            onClick={attempt(async () => {
              const made = await studio.link(run)
              setLink(made)
              try {
                await navigator.clipboard.writeText(made)
                return "the link is on the clipboard"
              } catch {
                return "copy the link below"
              }
            })}
          >
            <Icon name="share" /> Link
          </button>
          <span>holds the whole scenario; files that were dropped stay here</span>
        </li>
      </ul>
      {link === "" ? null : (
        <label className="link-text">
          <span className="visually-hidden">Link</span>
          <input readOnly value={link} onFocus={(event) => event.target.select()} />
        </label>
      )}
      <p role="status" className="soft">
        {said}
      </p>
    </Dialog>
  )
}
