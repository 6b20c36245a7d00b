import type { PictureOptions } from "../demo/DemoPicture.ts"
import { escaped, htmlPage } from "./HtmlPage.ts"
import type { Inspection, InspectedSelection } from "./Inspection.ts"

/** The prompt on a terminal: what is dropped first is faintest. Without colour, marks say which selections keep what follows. */
export const drawInspection = (inspection: Inspection, { colour }: Pick<PictureOptions, "colour">): string => {
  const { model, device, selections, pieces, answer, dense, promptTokens } = inspection
  const last = selections.length
  const shade = (text: string, keptBy: number): string => {
    if (!colour) return `⟦${keptBy}⟧${text}`
    if (keptBy === last) return `\u001b[1;38;5;255;48;5;22m${text}\u001b[0m`
    // Greys from 240 to 250.
    return `\u001b[38;5;${240 + Math.round((10 * keptBy) / Math.max(1, last))}m${text}\u001b[0m`
  }
  const key = Array.from({ length: last + 1 }, (_, keptBy) => shade(` ${meaning(keptBy, selections)} `, keptBy))
  return [
    `${model} on ${device}, ${promptTokens} tokens`,
    `answer: ${answer}${answer === dense ? ", as dense" : `; dense: ${dense}`}`,
    "",
    ...key,
    "",
    pieces.map(({ text, keptBy }) => shade(text, keptBy)).join(""),
    "",
    ...selections.map((selection) => otherP(selection, promptTokens)),
    "",
  ].join("\n")
}

const meaning = (keptBy: number, selections: ReadonlyArray<InspectedSelection>): string =>
  keptBy === selections.length ? "seen by every layer" : `dropped at layer ${selections[keptBy]!.layer}`

const otherP = ({ layer, p, rows, others }: InspectedSelection, promptTokens: number): string => {
  const share = (count: number) => `${((100 * count) / promptTokens).toFixed(0)}%`
  const told = others.map((other) => `${other.p}: ${share(other.rows)}`).join(", ")
  return `layer ${layer} keeps ${share(rows)} of the prompt at p ${p}; it would keep at p ${told}`
}

/** The same as a page; the title of a block says how much of the attention mass lies above it. */
export const inspectionHtml = (inspection: Inspection): string => {
  const { model, device, selections, pieces, answer, dense, promptTokens, blocks, block } = inspection
  const last = selections.length
  const style = (keptBy: number): string =>
    keptBy === last
      ? "background: rgb(var(--good) / 0.28); font-weight: 600"
      : `opacity: ${(0.4 + (0.5 * keptBy) / Math.max(1, last)).toFixed(2)}; background: rgb(128 128 128 / ${(0.06 + (0.14 * keptBy) / Math.max(1, last)).toFixed(2)})`
  const span = (text: string, keptBy: number): string =>
    `<span style="${style(keptBy)}" title="${meaning(keptBy, selections)}">${escaped(text)}</span>`
  const key = Array.from({ length: last + 1 }, (_, keptBy) => `<li>${span(meaning(keptBy, selections), keptBy)}</li>`)
  const share = (count: number) => `${((100 * count) / promptTokens).toFixed(0)}%`
  const grid = selections[0]!.others.map(({ p }) => p)
  const bars = blocks.map(({ first, above }) => {
    const height = above === null ? 100 : 100 * (1 - above[0])
    const told =
      above === null
        ? "always kept"
        : `between ${above[0]} and ${above[1]} of the attention mass lies in blocks above it`
    const x = first / block
    return `<rect x="${x}" y="${(100 - height).toFixed(1)}" width="0.9" height="${Math.max(1, height).toFixed(1)}"${above === null ? ' opacity="0.35"' : ""}><title>tokens ${first} to ${Math.min(first + block, promptTokens) - 1}: ${told}</title></rect>`
  })
  return htmlPage(
    `${model}: what was kept`,
    `<h1>What ${escaped(model)} kept of a prompt</h1>
<p class="soft">${escaped(device)}, ${promptTokens} tokens</p>
<p>Answer: <strong>${escaped(answer)}</strong>${answer === dense ? ", as dense" : `; dense: <strong>${escaped(dense)}</strong>`}</p>
<div class="scroll"><table>
<caption>Rows kept, a share of the prompt, by p at one layer with those before it as they are</caption>
<thead><tr><th scope="col">layer</th><th scope="col">as it is</th>${grid.map((p) => `<th scope="col">p ${p}</th>`).join("")}</tr></thead>
<tbody>${selections.map(({ layer, p, rows, others }) => `<tr><td>${layer}</td><td>${share(rows)} (p ${p})</td>${others.map((other) => `<td>${share(other.rows)}</td>`).join("")}</tr>`).join("")}</tbody>
</table></div>
<h2>Attention mass, block by block</h2>
<p class="soft">Blocks of ${block} tokens by layer ${selections[0]!.layer}: the higher, the less of the mass lies in blocks above it, and the lower p may be that still keeps it. Pale ones are always kept.</p>
<svg viewBox="0 0 ${blocks.length} 100" preserveAspectRatio="none" width="100%" height="120" role="img" aria-label="Attention mass of ${blocks.length} blocks" fill="rgb(var(--good))">${bars.join("")}</svg>
<h2>The prompt</h2>
<ul>${key.join("")}</ul>
<div class="text">${pieces.map(({ text, keptBy }) => span(text, keptBy)).join("")}</div>`,
  )
}
