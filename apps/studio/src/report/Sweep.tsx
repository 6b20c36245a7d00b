import { useState } from "react"
import { useStudio } from "../state/Context.ts"
import type { Measured } from "../protocol/Protocol.ts"
import type { Run } from "../state/StudioState.ts"
import { Chart, short } from "../ui/Chart.tsx"
import { kneeOf, ratesAround, scaledRate, type RatePoint } from "./Rates.ts"

/** Simulates a run's scenario at other rates, and says up to which one it holds its targets. */
export const Sweep = ({ run, isDark }: { readonly run: Run; readonly isDark: boolean }) => {
  const studio = useStudio()
  const [points, setPoints] = useState<ReadonlyArray<RatePoint>>([])
  const [attainment, setAttainment] = useState("0.9")
  const [isRunning, setIsRunning] = useState(false)
  const [error, setError] = useState("")
  const wanted = Number(attainment)
  const measure = async (factors: ReadonlyArray<number>) => {
    const scenarios = factors.map((factor) => ({ files: run.files, scenario: scaledRate(run.scenario, factor) }))
    const measured = await studio.measureAll(scenarios)
    return measured.map((one, i) => pointOf(factors[i]!, one))
  }
  const start = async () => {
    setIsRunning(true)
    setError("")
    try {
      let found = await measure(ratesAround)
      setPoints(sorted(found))
      // Between the last rate that holds and the first that does not.
      for (let round = 0; round < 3; round++) {
        const { last, first } = kneeOf(found, wanted)
        if (last === null || first === null) break
        found = [...found, ...(await measure([Math.sqrt(last.factor * first.factor)]))]
        setPoints(sorted(found))
      }
    } catch (cause) {
      setError(cause instanceof Error ? cause.message : String(cause))
    }
    setIsRunning(false)
  }
  const { last, first } = kneeOf(points, wanted)
  const summary = run.model!.result.summary!
  const { ttftMs, tpotMs } = summary.slo
  return (
    <section className="card wide" aria-labelledby="sweep-title">
      <h3 id="sweep-title">Goodput against rate</h3>
      <p className="soft">
        The same scenario at rates around its own, seed {run.model!.result.meta.seed}. A request is good when its TTFT
        is at most {ttftMs} ms and its TPOT at most {tpotMs} ms; rejected and unfinished ones are misses.
      </p>
      <div className="row">
        <label className="field-inline">
          <span>Share that must be good</span>
          <input
            value={attainment}
            onChange={(event) => setAttainment(event.target.value)}
            size={5}
            inputMode="decimal"
          />
        </label>
        <button type="button" onClick={() => void start()} disabled={isRunning || !(wanted > 0 && wanted <= 1)}>
          {isRunning ? "simulating …" : points.length === 0 ? "Find the knee" : "Again"}
        </button>
      </div>
      {error === "" ? null : (
        <p className="fault" role="alert">
          {error}
        </p>
      )}
      {points.length === 0 ? null : (
        <>
          <p className="verdict" role="status">
            {last === null
              ? `None of the rates holds the targets for ${attainment} of the requests; the lowest was ${short(points[0]!.offered)} requests/s.`
              : first === null
                ? `All rates up to ${short(last.offered)} requests/s hold the targets for ${attainment} of the requests.`
                : `Up to ${short(last.offered)} requests/s the targets hold for ${attainment} of the requests; at ${short(first.offered)} they do not.`}
          </p>
          <div className="charts">
            <Chart
              title="Goodput, requests/s"
              said={points.map((point) => `${short(point.goodput)} at ${short(point.offered)}`).join("; ")}
              xLabel="offered, requests/s"
              yLabel="goodput"
              isDark={isDark}
              series={[
                {
                  name: "goodput",
                  colour: isDark ? "#78aefc" : "#1f5fd0",
                  points: points.map((p) => [p.offered, p.goodput]),
                  marked: true,
                },
                {
                  name: "served",
                  colour: isDark ? "#98a3b0" : "#8a94a1",
                  points: points.map((p) => [p.offered, p.served]),
                },
              ]}
            />
            <Chart
              title="Share of requests within their targets"
              said={points.map((point) => `${short(point.attainment)} at ${short(point.offered)}`).join("; ")}
              xLabel="offered, requests/s"
              yLabel="share"
              yRange={[0, 1]}
              line={wanted}
              isDark={isDark}
              series={[
                {
                  name: "within targets",
                  colour: isDark ? "#38b9c2" : "#1d9aa8",
                  points: points.map((p) => [p.offered, p.attainment]),
                  marked: true,
                },
              ]}
            />
          </div>
        </>
      )}
    </section>
  )
}

const sorted = (points: ReadonlyArray<RatePoint>): ReadonlyArray<RatePoint> =>
  points.toSorted((a, b) => a.factor - b.factor)

const pointOf = (factor: number, { summary, offeredPerSecond }: Measured): RatePoint => ({
  factor,
  offered: offeredPerSecond,
  served: summary.requestsPerSecond,
  goodput: summary.goodput,
  attainment: summary.attainment,
})
