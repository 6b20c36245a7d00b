/** Charts as SVG text: pure functions of their data. Colours are CSS variables, so that the page decides light or dark. */

export interface Axis {
  readonly label: string
  readonly log?: boolean
  /** Values at the ends; found from the data where left out. */
  readonly min?: number
  readonly max?: number
  readonly format?: (value: number) => string
}

export interface Series {
  readonly name: string
  readonly points: ReadonlyArray<readonly [number, number]>
  /** Index of its colour; its place in the list where left out. */
  readonly colour?: number
  readonly dashed?: boolean
  readonly dots?: boolean
  /** A point to be marked, and what to write beside it. */
  readonly mark?: { readonly at: readonly [number, number]; readonly text: string }
}

const width = 520
const height = 260
const frame = { left: 56, right: 14, top: 10, bottom: 40 }
const inner = { width: width - frame.left - frame.right, height: height - frame.top - frame.bottom }

export const escape = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;")

export const colour = (index: number): string => `var(--series-${index % 8})`

/** 1200 as 1.2k, 0.002 as 0.002; a dash for what is no number. */
export const short = (value: number): string => {
  if (!Number.isFinite(value)) return "–"
  const size = Math.abs(value)
  if (size >= 1e6) return `${trim(value / 1e6)}M`
  if (size >= 1000) return `${trim(value / 1000)}k`
  return trim(value)
}

const trim = (value: number): string => `${Number(value.toPrecision(3))}`

interface Scale {
  readonly place: (value: number) => number
  readonly ticks: ReadonlyArray<number>
}

const scaleOf = (axis: Axis, values: ReadonlyArray<number>, from: number, to: number): Scale => {
  const finite = values.filter((value) => Number.isFinite(value) && (!axis.log || value > 0))
  let min = axis.min ?? Math.min(...finite)
  let max = axis.max ?? Math.max(...finite)
  if (!Number.isFinite(min) || !Number.isFinite(max)) [min, max] = [axis.log ? 1 : 0, 1]
  if (axis.log) {
    const low = Math.floor(Math.log10(min))
    const high = Math.max(low + 1, Math.ceil(Math.log10(max)))
    const place = (value: number) =>
      from + ((Math.log10(Math.max(value, 10 ** low)) - low) / (high - low)) * (to - from)
    return { place, ticks: Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i)) }
  }
  if (max === min) max = min + 1
  const step = niceStep((max - min) / 5)
  if (axis.min === undefined) min = Math.floor(min / step) * step
  if (axis.max === undefined) max = Math.ceil(max / step) * step
  const ticks: Array<number> = []
  for (let i = Math.ceil(min / step); i * step <= max + step * 1e-6; i++) ticks.push(i * step)
  return { place: (value) => from + ((value - min) / (max - min)) * (to - from), ticks }
}

const niceStep = (rough: number): number => {
  const power = 10 ** Math.floor(Math.log10(rough))
  const digit = rough / power
  return (digit <= 1 ? 1 : digit <= 2 ? 2 : digit <= 5 ? 5 : 10) * power
}

const axes = (x: Axis, y: Axis, xs: Scale, ys: Scale): string => {
  const parts: Array<string> = []
  for (const tick of ys.ticks) {
    const at = ys.place(tick).toFixed(1)
    parts.push(`<line class="grid" x1="${frame.left}" x2="${width - frame.right}" y1="${at}" y2="${at}"/>`)
    parts.push(
      `<text class="tick" x="${frame.left - 6}" y="${at}" dy="0.32em" text-anchor="end">${(y.format ?? short)(tick)}</text>`,
    )
  }
  for (const tick of xs.ticks) {
    const at = xs.place(tick).toFixed(1)
    parts.push(`<line class="grid" y1="${frame.top}" y2="${height - frame.bottom}" x1="${at}" x2="${at}"/>`)
    parts.push(
      `<text class="tick" x="${at}" y="${height - frame.bottom + 15}" text-anchor="middle">${(x.format ?? short)(tick)}</text>`,
    )
  }
  parts.push(
    `<text class="label" x="${frame.left + inner.width / 2}" y="${height - 6}" text-anchor="middle">${escape(x.label)}</text>`,
  )
  parts.push(
    `<text class="label" transform="translate(12 ${frame.top + inner.height / 2}) rotate(-90)" text-anchor="middle">${escape(y.label)}</text>`,
  )
  return parts.join("")
}

const svg = (title: string, body: string, tall = height): string =>
  `<svg viewBox="0 0 ${width} ${tall}" role="img" aria-label="${escape(title)}">${body}</svg>`

const legend = (
  names: ReadonlyArray<{ readonly name: string; readonly fill: string; readonly dashed?: boolean }>,
): string =>
  `<div class="legend">${names
    .map(
      (one) =>
        `<span><i style="background:${one.fill}"${one.dashed === true ? ' class="dashed"' : ""}></i>${escape(one.name)}</span>`,
    )
    .join("")}</div>`

/** Lines through points; points that are no numbers are left out. */
export const lineChart = (title: string, x: Axis, y: Axis, series: ReadonlyArray<Series>): string => {
  const shown = series
    .map((one) => ({ ...one, points: one.points.filter((point) => point.every(Number.isFinite)) }))
    .filter((one) => one.points.length > 0)
  const xs = scaleOf(
    x,
    shown.flatMap((one) => one.points.map((point) => point[0])),
    frame.left,
    width - frame.right,
  )
  const ys = scaleOf(
    y,
    shown.flatMap((one) => one.points.map((point) => point[1])),
    height - frame.bottom,
    frame.top,
  )
  const at = ([px, py]: readonly [number, number]) => `${xs.place(px).toFixed(1)},${ys.place(py).toFixed(1)}`
  const body = shown.map((one, i) => {
    const stroke = colour(one.colour ?? i)
    const line = `<polyline class="line" points="${one.points.map(at).join(" ")}" stroke="${stroke}"${one.dashed === true ? ' stroke-dasharray="5 4"' : ""}><title>${escape(one.name)}</title></polyline>`
    const dots =
      one.dots === true
        ? one.points
            .map((point) => {
              const [cx, cy] = at(point).split(",")
              return `<circle cx="${cx}" cy="${cy}" r="3" fill="${stroke}"><title>${escape(one.name)}: ${short(point[0])}, ${short(point[1])}</title></circle>`
            })
            .join("")
        : ""
    if (one.mark === undefined) return line + dots
    const [mx, my] = at(one.mark.at).split(",")
    return `${line}${dots}<circle class="mark" cx="${mx}" cy="${my}" r="6" stroke="${stroke}"/><text class="tick" x="${Number(mx) + 8}" y="${Number(my) + 18}">${escape(one.mark.text)}</text>`
  })
  const names = shown.map((one, i) => ({
    name: one.name,
    fill: colour(one.colour ?? i),
    dashed: one.dashed === true,
  }))
  return (shown.length > 1 ? legend(names) : "") + svg(title, axes(x, y, xs, ys) + body.join(""))
}

/** Areas on top of one another, each filled with a CSS colour; all series share their x values. */
export const stackedChart = (
  title: string,
  x: Axis,
  y: Axis,
  xValues: ReadonlyArray<number>,
  series: ReadonlyArray<{ readonly name: string; readonly values: ReadonlyArray<number>; readonly fill: string }>,
): string => {
  const tops = xValues.map((_, i) => series.reduce((sum, one) => sum + one.values[i]!, 0))
  const xs = scaleOf(x, xValues, frame.left, width - frame.right)
  const ys = scaleOf({ min: 0, ...y }, tops, height - frame.bottom, frame.top)
  const base = new Array<number>(xValues.length).fill(0)
  const body = series.map((one) => {
    const place = (i: number, value: number) => `${xs.place(xValues[i]!).toFixed(1)},${ys.place(value).toFixed(1)}`
    const lower = xValues.map((_, i) => place(i, base[i]!))
    for (const [i, value] of one.values.entries()) base[i]! += value
    const upper = xValues.map((_, i) => place(i, base[i]!))
    return `<polygon points="${[...upper, ...lower.reverse()].join(" ")}" fill="${one.fill}" opacity="0.85"><title>${escape(one.name)}</title></polygon>`
  })
  return legend(series.map(({ name, fill }) => ({ name, fill }))) + svg(title, axes(x, y, xs, ys) + body.join(""))
}

/** Groups of bars, one bar a series. */
export const barChart = (
  title: string,
  y: Axis,
  groups: ReadonlyArray<string>,
  series: ReadonlyArray<{ readonly name: string; readonly values: ReadonlyArray<number>; readonly colour?: number }>,
): string => {
  const all = series.flatMap((one) => one.values)
  const ys = scaleOf(y.log === true ? y : { min: 0, ...y }, all, height - frame.bottom, frame.top)
  const group = inner.width / Math.max(1, groups.length)
  const bar = (group * 0.8) / Math.max(1, series.length)
  const none: Scale = { place: () => 0, ticks: [] }
  const bars = series.map((one, s) =>
    one.values
      .map((value, g) => {
        if (!Number.isFinite(value)) return ""
        const top = ys.place(value)
        const left = frame.left + g * group + group * 0.1 + s * bar
        const high = Math.max(0, height - frame.bottom - top)
        return `<rect x="${left.toFixed(1)}" y="${top.toFixed(1)}" width="${Math.max(1, bar - 1).toFixed(1)}" height="${high.toFixed(1)}" fill="${colour(series[s]!.colour ?? s)}"><title>${escape(`${one.name}, ${groups[g]!}: ${short(value)}`)}</title></rect>`
      })
      .join(""),
  )
  const labels = groups.map(
    (name, g) =>
      `<text class="tick" x="${(frame.left + (g + 0.5) * group).toFixed(1)}" y="${height - frame.bottom + 15}" text-anchor="middle">${escape(name)}</text>`,
  )
  const names = series.map((one, s) => ({ name: one.name, fill: colour(one.colour ?? s) }))
  return (
    (series.length > 1 ? legend(names) : "") +
    svg(title, axes({ label: "" }, y, none, ys) + bars.join("") + labels.join(""))
  )
}

/** A bar for each row, split at the given times. */
export const waterfallChart = (
  title: string,
  xLabel: string,
  parts: ReadonlyArray<string>,
  rows: ReadonlyArray<{ readonly text: string; readonly times: ReadonlyArray<number> }>,
): string => {
  const tall = frame.top + frame.bottom + Math.max(1, rows.length) * 6
  const xs = scaleOf(
    { label: xLabel },
    rows.flatMap((row) => row.times),
    frame.left,
    width - frame.right,
  )
  const ticks = xs.ticks.map((tick) => {
    const at = xs.place(tick).toFixed(1)
    return `<line class="grid" y1="${frame.top}" y2="${tall - frame.bottom}" x1="${at}" x2="${at}"/><text class="tick" x="${at}" y="${tall - frame.bottom + 15}" text-anchor="middle">${short(tick)}</text>`
  })
  const bars = rows.map((row, i) =>
    row.times
      .slice(1)
      .map((end, p) => {
        const left = xs.place(row.times[p]!)
        return `<rect x="${left.toFixed(1)}" y="${frame.top + i * 6}" width="${Math.max(0.5, xs.place(end) - left).toFixed(1)}" height="5" fill="${colour(p)}"><title>${escape(row.text)}</title></rect>`
      })
      .join(""),
  )
  const label = `<text class="label" x="${frame.left + inner.width / 2}" y="${tall - 6}" text-anchor="middle">${escape(xLabel)}</text>`
  return (
    legend(parts.map((name, p) => ({ name, fill: colour(p) }))) +
    svg(title, ticks.join("") + bars.join("") + label, tall)
  )
}
