import type { DemoReport, DemoSide } from "./DemoReport.ts"

export interface PictureOptions {
  readonly colour: boolean
  /** Columns that a line may take. */
  readonly columns: number
}

/** A demo's report as text for a terminal. */
export const drawDemo = (report: DemoReport, options: PictureOptions): string => {
  const ink = inks(options.colour)
  const { promptTokens, needleAt, needle, question } = report
  return [
    ink.bold(`${report.model} on ${report.device}`),
    "",
    `In a text of ${promptTokens} tokens, at token ${needleAt}, it says:`,
    `  ${ink.needle(needle)}`,
    "and the text ends with:",
    `  ${question}`,
    "",
    ...answers(report, ink),
    "",
    "Rows that the layers compute",
    ...segments(report, ink),
    "",
    ...blocks(report, options.columns, ink),
    "",
  ].join("\n")
}

const answers = ({ dense, uniprefill, ttftRatio, expected }: DemoReport, ink: Inks): ReadonlyArray<string> => {
  const width = Math.max(6, dense.answer.length, uniprefill.answer.length)
  const line = (name: string, { ttftMillis, answer, correct }: DemoSide, note: string) => {
    const verdict = correct ? ink.good("correct") : ink.bad(`wrong, it is ${expected}`)
    return `${name.padEnd(12)}${seconds(ttftMillis).padStart(9)}   ${answer.padEnd(width)}   ${verdict}${note}`
  }
  const repetitions = dense.ttftsMillis.length
  const title = repetitions === 1 ? "first token" : `median of ${repetitions}`
  return [
    ink.dim(`${"".padEnd(10)}${title.padStart(11)}   answer`),
    line("dense", dense, ""),
    line("UniPrefill", uniprefill, `, ${ink.bold(`${ttftRatio.toFixed(2)} of the dense time`)}`),
  ]
}

const seconds = (millis: number): string => `${(millis / 1000).toFixed(2)} s`

const segments = ({ segments: list, promptTokens }: DemoReport, ink: Inks): ReadonlyArray<string> => {
  const width = String(promptTokens).length
  return list.map(({ firstLayer, lastLayer, rows }) => {
    const layers = firstLayer === lastLayer ? `layer ${firstLayer}` : `layers ${firstLayer} to ${lastLayer}`
    const share = rows / promptTokens
    const bar = "█".repeat(Math.max(1, Math.round(share * 32)))
    return `  ${layers.padEnd(16)}${String(rows).padStart(width)}  ${`${Math.round(share * 100)}%`.padStart(4)}  ${ink.good(bar)}`
  })
}

/** One character per block of 64 tokens, a row of characters for each selection. */
const blocks = (report: DemoReport, columns: number, ink: Inks): ReadonlyArray<string> => {
  const perLine = Math.max(16, Math.min(64, columns - 2))
  const [first, last] = report.needleBlocks
  const cell = (share: number, block: number): string => {
    if (block >= first && block <= last) return ink.needle(share > 0 ? "◆" : "◇")
    if (share === 0) return ink.dim("·")
    return ink.good(share === 1 ? "█" : share > 0.5 ? "▓" : "░")
  }
  const lines = report.keptBlocks.flatMap((shares, selection) => {
    const cells = shares.map(cell)
    const title = `after layer ${report.segments[selection]!.lastLayer}`
    const rows = Array.from(
      { length: Math.ceil(cells.length / perLine) },
      (_, i) => `  ${cells.slice(i * perLine, (i + 1) * perLine).join("")}`,
    )
    return [ink.dim(`  ${title}`), ...rows]
  })
  const legend = `Blocks kept: █ all of its rows, ▓ ░ some, · none; ${ink.needle("◆")} the needle's, ◇ if it was dropped`
  return [legend, ...lines]
}

interface Inks {
  readonly bold: (text: string) => string
  readonly dim: (text: string) => string
  readonly good: (text: string) => string
  readonly bad: (text: string) => string
  readonly needle: (text: string) => string
}

const inks = (colour: boolean): Inks => {
  const ink = (code: string) => (text: string) => (colour ? `\u001b[${code}m${text}\u001b[0m` : text)
  return { bold: ink("1"), dim: ink("2"), good: ink("32"), bad: ink("31"), needle: ink("33") }
}
