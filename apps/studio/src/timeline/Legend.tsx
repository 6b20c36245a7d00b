import { themeOf } from "../layout/Colours.ts"
import type { RunModel } from "./RunModel.ts"

/** What colours mean. */
export const Legend = ({ model, isDark }: { readonly model: RunModel; readonly isDark: boolean }) => {
  const { segmentLayers } = model.result.meta
  const theme = themeOf(isDark, segmentLayers.length)
  const entries: ReadonlyArray<readonly [name: string, colours: ReadonlyArray<string>]> = [
    ["decode", [theme.decode]],
    [segmentLayers.length === 1 ? "prefill" : `prefill, segment 0–${segmentLayers.length - 1}`, theme.segments],
    ["selection", [theme.selection]],
    ["waiting", [theme.waiting]],
    ["between chunks", [theme.pending]],
    ["preempted", [theme.preempted]],
    ["carry", [theme.carry]],
    ["shared", [theme.shared]],
  ]
  return (
    <ul className="legend" aria-label="Colours">
      {entries.map(([name, colours]) => (
        <li key={name}>
          <span className="ramp" aria-hidden="true">
            {colours.map((colour) => (
              <i key={colour} style={{ background: colour }} />
            ))}
          </span>
          {name}
        </li>
      ))}
    </ul>
  )
}
