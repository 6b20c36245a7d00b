import type { Summary } from "@uniprefill/simulator/metrics/Summary"
import { percent } from "../inspect/KeptStrip.tsx"
import { countLabel } from "../layout/Ticks.ts"
import { latency } from "./Figures.ts"

/** Latencies by prompt length. */
export const LengthTable = ({ summary }: { readonly summary: Summary }) => (
  <section className="card wide" aria-labelledby="lengths-title">
    <h3 id="lengths-title">By prompt length</h3>
    <div className="scroll" tabIndex={0} role="region" aria-labelledby="lengths-title">
      <table className="grid">
        <thead>
          <tr>
            <th scope="col">prompt tokens</th>
            <th scope="col">requests</th>
            <th scope="col">TTFT P50, ms</th>
            <th scope="col">P95</th>
            <th scope="col">P99</th>
            <th scope="col">within targets</th>
            <th scope="col">rows kept</th>
          </tr>
        </thead>
        <tbody>
          {summary.byLength.map((bucket) => (
            <tr key={bucket.from}>
              <th scope="row">{lengthLabel(bucket.from, bucket.to)}</th>
              <td>{countLabel(bucket.offered)}</td>
              <td>{latency(bucket.ttft, "p50")}</td>
              <td>{latency(bucket.ttft, "p95")}</td>
              <td>{latency(bucket.ttft, "p99")}</td>
              <td>{percent(bucket.attainment)}</td>
              <td>{Number.isNaN(bucket.kept) ? "–" : percent(bucket.kept)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  </section>
)

const lengthLabel = (from: number, to: number): string => {
  const tokens = (count: number) => (count >= 1024 ? `${count / 1024}K` : `${count}`)
  if (to > 1e9) return `${tokens(from)} and more`
  return from === 1 ? `below ${tokens(to)}` : `${tokens(from)} to ${tokens(to)}`
}
