import { useMemo } from "react"
import type { RunResult } from "../protocol/Protocol.ts"
import { percent } from "../inspect/KeptStrip.tsx"
import { countLabel } from "../layout/Ticks.ts"
import { short } from "../ui/Chart.tsx"
import { latenciesOf, latency } from "./Figures.ts"

/** What a run came to, in a few lines. */
export const RunFigures = ({ result }: { readonly result: RunResult }) => {
  const { ttft, tpot } = useMemo(() => latenciesOf(result), [result])
  const { summary } = result
  const facts: ReadonlyArray<readonly [string, string]> = [
    ["TTFT, P50 / P99", `${latency(ttft, "p50")} / ${latency(ttft, "p99")} ms`],
    ["TPOT, P50 / P99", `${latency(tpot, "p50")} / ${latency(tpot, "p99")} ms`],
    ...(summary === null
      ? []
      : ([
          ["within targets", `${percent(summary.attainment)} of ${countLabel(summary.offered)} requests`],
          ["goodput", `${short(summary.goodput)} requests/s`],
          ["memory in use, mean / max", `${percent(summary.memoryMean)} / ${percent(summary.memoryMax)}`],
        ] as const)),
  ]
  return (
    <section className="section" aria-labelledby="run-figures">
      <h3 id="run-figures">The run</h3>
      {result.complete ? null : <p className="partial">PARTIAL RESULT: {result.ended}.</p>}
      <dl className="facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </section>
  )
}
