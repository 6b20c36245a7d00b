import { useEffect, useRef } from "react"
import UPlot from "uplot"
import "uplot/dist/uPlot.min.css"

export interface ChartSeries {
  readonly name: string
  readonly colour: string
  readonly points: ReadonlyArray<readonly [x: number, y: number]>
  /** A mark at every point, as where each is an experiment of its own. */
  readonly marked?: boolean
}

/** Lines over numbers. `said` is what the picture shows, for who does not see it. */
export const Chart = ({
  title,
  said,
  series,
  xLabel,
  yLabel,
  isLog = false,
  yRange,
  isDark,
  line,
}: {
  readonly title: string
  readonly said: string
  readonly series: ReadonlyArray<ChartSeries>
  readonly xLabel: string
  readonly yLabel: string
  readonly isLog?: boolean
  readonly yRange?: readonly [number, number]
  readonly isDark: boolean
  /** A value on the y axis that is drawn as a line. */
  readonly line?: number
}) => {
  const host = useRef<HTMLDivElement>(null)
  useEffect(() => {
    const element = host.current!
    if (series.every(({ points }) => points.length === 0)) return
    const [ink, rule] = isDark ? ["#98a3b0", "#2a323c"] : ["#56606d", "#e3e7ec"]
    const font = "11px ui-sans-serif, system-ui, sans-serif"
    const axis = {
      stroke: ink,
      font,
      labelFont: font,
      grid: { stroke: rule, width: 1 },
      ticks: { stroke: rule, width: 1 },
    }
    const options: UPlot.Options = {
      width: element.clientWidth,
      height: 220,
      cursor: { y: false, points: { size: 6 } },
      legend: { show: series.length > 1 || true, live: true },
      scales: {
        x: { time: false, distr: isLog ? 3 : 1 },
        y: yRange === undefined ? {} : { range: [yRange[0], yRange[1]] },
      },
      axes: [
        { ...axis, label: xLabel, labelSize: 18, size: 30 },
        { ...axis, label: yLabel, labelSize: 18, size: 46 },
      ],
      series: [
        { label: xLabel, value: (_, value: number | null) => (value === null ? "–" : short(value)) },
        ...series.map(({ name, colour, marked }) => ({
          label: name,
          stroke: colour,
          width: 2,
          points: { show: marked ?? false, size: 6, fill: colour },
          spanGaps: true,
          value: (_: UPlot, value: number | null) => (value === null ? "–" : short(value)),
        })),
      ],
      hooks: line === undefined ? {} : { draw: [(plot) => drawLine(plot, line, ink)] },
    }
    const tables = series.map(
      ({ points }): UPlot.AlignedData =>
        [points.map(([x]) => x), points.map(([, y]) => y)] as unknown as UPlot.AlignedData,
    )
    const plot = new UPlot(options, tables.length === 1 ? tables[0]! : UPlot.join(tables), element)
    const observer = new ResizeObserver(() => plot.setSize({ width: element.clientWidth, height: 220 }))
    observer.observe(element)
    return () => {
      observer.disconnect()
      plot.destroy()
    }
  }, [series, isDark, isLog, xLabel, yLabel, yRange, line])
  return (
    <figure className="chart">
      <figcaption>{title}</figcaption>
      <div ref={host} role="img" aria-label={`${title}: ${said}`} />
      {series.every(({ points }) => points.length === 0) ? <p className="soft">Nothing to show.</p> : null}
    </figure>
  )
}

const drawLine = (plot: UPlot, value: number, colour: string): void => {
  const { ctx, bbox } = plot
  const y = plot.valToPos(value, "y", true)
  ctx.save()
  ctx.strokeStyle = colour
  ctx.setLineDash([6, 4])
  ctx.beginPath()
  ctx.moveTo(bbox.left, y)
  ctx.lineTo(bbox.left + bbox.width, y)
  ctx.stroke()
  ctx.restore()
}

/** A number in as many digits as tell it. */
export const short = (value: number): string => {
  if (!Number.isFinite(value)) return "–"
  const size = Math.abs(value)
  if (size >= 1e6) return `${(value / 1e6).toFixed(2)} M`
  if (size >= 1000) return value.toLocaleString("en", { maximumFractionDigits: 0 })
  if (size >= 100) return value.toFixed(0)
  if (size >= 10) return value.toFixed(1)
  return size < 0.0005 ? "0" : value.toFixed(size >= 1 ? 2 : 3)
}
