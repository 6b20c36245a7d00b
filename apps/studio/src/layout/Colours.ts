/** Colours of a theme, `#rrggbb`. */
export interface Theme {
  readonly isDark: boolean
  readonly ground: string
  readonly lane: string
  readonly ink: string
  readonly soft: string
  readonly rule: string
  readonly accent: string
  readonly decode: string
  /** By segment. */
  readonly segments: ReadonlyArray<string>
  readonly failed: string
  readonly selection: string
  readonly waiting: string
  readonly pending: string
  readonly preempted: string
  readonly carry: string
  readonly shared: string
  readonly idle: string
}

const light = {
  ground: "#ffffff",
  lane: "#f3f5f8",
  ink: "#171b21",
  soft: "#56606d",
  rule: "#dfe4ea",
  accent: "#1f5fd0",
  decode: "#e3963a",
  failed: "#cf3636",
  selection: "#9a3fce",
  waiting: "#b9c1cb",
  pending: "#dbe0e7",
  preempted: "#e0a6a0",
  carry: "#9b8fc4",
  shared: "#e7c08a",
  idle: "#e4e7ec",
}

const dark = {
  ground: "#0f1318",
  lane: "#171c23",
  ink: "#e8ecf1",
  soft: "#98a3b0",
  rule: "#2a323c",
  accent: "#78aefc",
  decode: "#eda557",
  failed: "#f26d6d",
  selection: "#d495f7",
  waiting: "#566170",
  pending: "#2e3742",
  preempted: "#8d4f4b",
  carry: "#8377b8",
  shared: "#a87f45",
  idle: "#27303a",
}

/** Segments run from the first colour over the second to the third, so that many stay apart. */
const lightRamp = ["#2f66cf", "#1d9aa8", "#7fb24a"] as const
const darkRamp = ["#5c97f2", "#38b9c2", "#a3d069"] as const

export const themeOf = (isDark: boolean, segments: number): Theme => ({
  isDark,
  ...(isDark ? dark : light),
  segments: Array.from({ length: segments }, (_, s) =>
    along(isDark ? darkRamp : lightRamp, segments === 1 ? 0 : s / (segments - 1)),
  ),
})

/** The colour a share of the way along a row of colours, in OKLab, where equal steps look equal. */
export const along = (ramp: ReadonlyArray<string>, share: number): string => {
  const place = Math.min(1, Math.max(0, share)) * (ramp.length - 1)
  const at = Math.min(ramp.length - 2, Math.floor(place))
  const from = toLab(ramp[at]!)
  const to = toLab(ramp[at + 1]!)
  return fromLab(from.map((value, i) => value + (to[i]! - value) * (place - at)))
}

/** Black or white: whichever is read better on a colour. */
export const inkOn = (colour: string): string => (toLab(colour)[0]! > 0.67 ? "#10151b" : "#ffffff")

const toLinear = (value: number): number => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
const toGamma = (value: number): number => (value <= 0.0031308 ? value * 12.92 : 1.055 * value ** (1 / 2.4) - 0.055)

const toLab = (colour: string): ReadonlyArray<number> => {
  const value = Number.parseInt(colour.slice(1), 16)
  const [r, g, b] = [16, 8, 0].map((shift) => toLinear(((value >> shift) & 255) / 255)) as [number, number, number]
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b)
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b)
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b)
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ]
}

const fromLab = (lab: ReadonlyArray<number>): string => {
  const [L, a, b] = lab as [number, number, number]
  const l = (L + 0.3963377774 * a + 0.2158037573 * b) ** 3
  const m = (L - 0.1055613458 * a - 0.0638541728 * b) ** 3
  const s = (L - 0.0894841775 * a - 1.291485548 * b) ** 3
  const channels = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ]
  return `#${channels
    .map((value) =>
      Math.round(Math.min(1, Math.max(0, toGamma(value))) * 255)
        .toString(16)
        .padStart(2, "0"),
    )
    .join("")}`
}
