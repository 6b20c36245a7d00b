import type { KeptBlocks } from "@uniprefill/simulator/timetravel/KeptBlocks"
import { useEffect, useRef } from "react"
import { themeOf } from "../layout/Colours.ts"
import { paintStrip } from "../layout/Strip.ts"
import { countLabel } from "../layout/Ticks.ts"

const lineHeight = 12
const gap = 3

/** Which parts of a prompt go on after each selection, from the prompt's first token on the left to its last. */
export const KeptStrip = ({
  kept,
  segments,
  isDark,
}: {
  readonly kept: KeptBlocks
  readonly segments: number
  readonly isDark: boolean
}) => {
  const canvas = useRef<HTMLCanvasElement>(null)
  useEffect(() => {
    const element = canvas.current!
    const paint = () => {
      const scale = Math.min(2, window.devicePixelRatio || 1)
      const theme = themeOf(isDark, segments)
      const width = Math.max(10, Math.round(element.clientWidth * scale))
      const pixels = paintStrip(
        kept,
        width,
        lineHeight * scale,
        gap * scale,
        theme.segments,
        isDark ? "#222932" : "#e6eaef",
      )
      element.width = pixels.width
      element.height = pixels.height
      const image = new ImageData(new Uint8ClampedArray(pixels.data.buffer as ArrayBuffer), pixels.width, pixels.height)
      element.getContext("2d")!.putImageData(image, 0, 0)
    }
    paint()
    const observer = new ResizeObserver(paint)
    observer.observe(element)
    return () => observer.disconnect()
  }, [kept, segments, isDark])
  const said = kept.rows.map((rows, i) => `segment ${i} ${countLabel(rows)} rows`).join(", ")
  return (
    <div className="strip">
      <ol className="strip-labels" style={{ gap }}>
        {kept.rows.map((rows, i) => (
          <li key={i} style={{ height: lineHeight }}>
            <span>S{i}</span> {countLabel(rows)} <span className="soft">{percent(rows / kept.promptTokens)}</span>
          </li>
        ))}
      </ol>
      <canvas
        ref={canvas}
        role="img"
        aria-label={`Rows kept over the prompt: ${said}`}
        style={{ height: kept.rows.length * (lineHeight + gap) - gap }}
      />
    </div>
  )
}

export const percent = (share: number): string => `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)}%`
