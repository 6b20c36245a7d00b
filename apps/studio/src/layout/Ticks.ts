import type { Viewport } from "./Viewport.ts"

export interface Tick {
  readonly time: number
  readonly label: string
}

/** Round steps of time, µs. */
const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5].concat(
  [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 43_200, 86_400].map((s) => s * 1e6),
)

/** Ticks at round times, at least `least` pixels apart. */
export const ticks = ({ from, to }: Viewport, width: number, least = 90): Array<Tick> => {
  const wanted = ((to - from) / width) * least
  const step = steps.find((one) => one >= wanted) ?? steps.at(-1)!
  const found: Array<Tick> = []
  for (let time = Math.ceil(from / step) * step; time <= to; time += step)
    found.push({ time, label: timeLabel(time, step) })
  return found
}

/** A time as precise as `precision` µs: 1:02:03, 12.5 s, 12.5004 s. */
export const timeLabel = (micros: number, precision: number): string => {
  const seconds = micros / 1e6
  if (precision >= 1e6 && seconds >= 60) {
    const whole = Math.round(seconds)
    const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60]
    const two = (value: number) => String(value).padStart(2, "0")
    return hours > 0 ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`
  }
  const digits = Math.min(6, Math.max(0, Math.ceil(-Math.log10(precision / 1e6) - 1e-9)))
  return `${seconds.toFixed(digits)} s`
}

/** A duration in the unit that suits it. */
export const durationLabel = (micros: number): string => {
  const ms = micros / 1000
  if (micros < 0 || !Number.isFinite(micros)) return "–"
  if (ms < 1) return `${micros.toFixed(0)} µs`
  if (ms < 10) return `${ms.toFixed(2)} ms`
  if (ms < 1000) return `${ms.toFixed(1)} ms`
  if (ms < 60_000) return `${(ms / 1000).toFixed(2)} s`
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`
  return `${Math.floor(ms / 3_600_000)} h ${Math.round((ms % 3_600_000) / 60_000)} min`
}

/** 12,345; 1.23 M. */
export const countLabel = (count: number): string =>
  count < 1e6 ? Math.round(count).toLocaleString("en") : `${(count / 1e6).toFixed(count < 1e7 ? 2 : 1)} M`
