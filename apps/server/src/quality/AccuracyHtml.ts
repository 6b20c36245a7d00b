import { type AccuracyReport, depthParts, type Group, type HeatMap, percent } from "./AccuracyReport.ts"
import { escaped, htmlPage } from "./HtmlPage.ts"

/** The report as a page: what follows, the table, and heat maps by depth and length. */
export const accuracyHtml = (report: AccuracyReport): string => {
  const { model, device, schedule, seed, findings, groups, heat, variants } = report
  const drops = schedule.map(({ layer, p }) => `${layer} (p ${p})`).join(", ")
  return htmlPage(
    `${model}: accuracy with token dropping`,
    `<h1>${escaped(model)}: accuracy with token dropping</h1>
<p class="soft">${escaped(device)}; drops at layers ${drops}; seed ${seed}</p>
<ul>${findings.map((finding) => `<li>${escaped(finding)}</li>`).join("\n")}</ul>
<div class="scroll"><table>
<caption>95% intervals are Wilson's; p is McNemar's exact test against dense. KL of the first token, nats, ± 95%.</caption>
<thead><tr>${["task", "tokens", "prompts", "variant", "right", "95%", "lost", "won", "p", "first KL", "rows kept", "TTFT"].map((name) => `<th scope="col">${name}</th>`).join("")}</tr></thead>
<tbody>${groups.flatMap((group) => rowsOf(group, variants)).join("\n")}</tbody>
</table></div>
${heat.length === 0 ? "" : `<h2>By depth and length</h2>\n<div class="maps">${heat.map(mapOf).join("\n")}</div>`}`,
  )
}

const rowsOf = ({ task, length, prompts, results }: Group, variants: ReadonlyArray<string>): ReadonlyArray<string> =>
  results.map((result, v) => {
    const cells = [
      task ?? "all",
      length === null ? "all" : String(length),
      String(prompts),
      variants[v]!,
      percent(result.accuracy),
      result.interval.map(percent).join("–"),
      ...(v === 0
        ? ["", "", "", ""]
        : [
            String(result.lost),
            String(result.won),
            result.pValue.toPrecision(2),
            `${result.firstKl.mean.toPrecision(2)} ± ${result.firstKl.half.toPrecision(1)}`,
          ]),
      result.kept.slice(1).map(percent).join(" "),
      result.ttftMs === null ? "" : `${result.ttftMs.toFixed(0)} ms`,
    ]
    return `<tr>${cells.map((cell) => `<td>${escaped(cell)}</td>`).join("")}</tr>`
  })

/** Green where all are right, red where none is; the numbers say the same. */
const mapOf = ({ variant, task, lengths, cells }: HeatMap): string => {
  const head = lengths.map((length) => `<th scope="col">${length}</th>`).join("")
  const body = cells.map((row, part) => {
    const depth = `${(100 * part) / depthParts}–${(100 * (part + 1)) / depthParts}%`
    const marked = row.map(([right, of]) => {
      if (of === 0) return "<td></td>"
      const share = right / of
      const [colour, strength] = share >= 0.5 ? ["--good", share - 0.5] : ["--bad", 0.5 - share]
      return `<td style="background: rgb(var(${colour}) / ${(0.08 + 0.7 * strength).toFixed(2)})">${right}/${of}</td>`
    })
    return `<tr><th scope="row">${depth}</th>${marked.join("")}</tr>`
  })
  return `<table><caption>${escaped(task)}, ${escaped(variant)}</caption><thead><tr><th scope="col">depth</th>${head}</tr></thead><tbody>${body.join("")}</tbody></table>`
}
