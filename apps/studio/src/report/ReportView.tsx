import { useMemo } from "react"
import type { Run } from "../state/StudioState.ts"
import type { RunModel } from "../timeline/RunModel.ts"
import { Chart, short } from "../ui/Chart.tsx"
import { percent } from "../inspect/KeptStrip.tsx"
import { countLabel, durationLabel, timeLabel } from "../layout/Ticks.ts"
import { changeText } from "../state/Draft.ts"
import { cdfOf, latenciesOf, latency } from "./Figures.ts"
import { LengthTable } from "./LengthTable.tsx"
import { Provenance } from "./Provenance.tsx"
import { Sweep } from "./Sweep.tsx"

/** What a run came to: figures, distributions, and where they come from. */
export const ReportView = ({
  run,
  model,
  isDark,
}: {
  readonly run: Run
  readonly model: RunModel
  readonly isDark: boolean
}) => {
  const { result } = model
  const { summary, report, requests } = result
  const latencies = useMemo(() => latenciesOf(result), [result])
  const { ttft, tpot, e2e, queueing } = latencies
  const curves = useMemo(
    () => ({
      ttft: report?.ttftCdf ?? cdfOf(requests, (row) => requests.firstToken[row]! - requests.arrival[row]!),
      tpot: report?.tpotCdf ?? [],
    }),
    [report, requests],
  )
  const accent = isDark ? "#78aefc" : "#1f5fd0"
  const of = (points: ReadonlyArray<readonly [number, number]>) => [{ name: run.letter, colour: accent, points }]
  return (
    <div className="report">
      <header className="report-head">
        <h2>
          {run.letter}: {result.name}
          {run.parent === null
            ? ""
            : `, ${changeText(run.parent.change)} at ${timeLabel(run.parent.change.atMicros, 1000)}`}
        </h2>
        {result.complete ? null : (
          <p className="partial" role="status">
            PARTIAL RESULT: {result.ended}. Latencies speak of the requests that were done.
          </p>
        )}
      </header>
      <div className="tiles">
        <Tile name="TTFT" value={latency(ttft, "p50")} unit="ms, median" note={`P99 ${latency(ttft, "p99")} ms`} />
        <Tile name="TPOT" value={latency(tpot, "p50")} unit="ms, median" note={`P99 ${latency(tpot, "p99")} ms`} />
        <Tile
          name="End to end"
          value={latency(e2e, "p50")}
          unit="ms, median"
          note={`queueing ${latency(queueing, "p50")} ms`}
        />
        {summary === null ? null : (
          <>
            <Tile
              name="Within targets"
              value={percent(summary.attainment)}
              unit="of all offered"
              note={`TTFT ≤ ${summary.slo.ttftMs} ms, TPOT ≤ ${summary.slo.tpotMs} ms`}
            />
            <Tile
              name="Goodput"
              value={short(summary.goodput)}
              unit="requests/s"
              note={`of ${short(summary.requestsPerSecond)} served`}
            />
            <Tile
              name="Completed"
              value={countLabel(summary.completed)}
              unit={`of ${countLabel(summary.offered)}`}
              note={missesOf(summary)}
            />
            <Tile
              name="Output"
              value={short(summary.outputTokensPerSecond)}
              unit="tokens/s"
              note={`input ${short(summary.inputTokensPerSecond)}`}
            />
            <Tile
              name="Memory"
              value={percent(summary.memoryMean)}
              unit="in use, mean"
              note={`at most ${percent(summary.memoryMax)}, ${summary.preemptions} preemptions`}
            />
            <Tile
              name="Device"
              value={percent(summary.utilisation)}
              unit="computing"
              note={`MFU ${percent(summary.mfu)}, ${short(summary.gpuHours)} GPU hours`}
            />
            <Tile
              name="Rows kept"
              value={summary.keptShares.length === 0 ? "100%" : percent(summary.keptShares.at(-1)!)}
              unit="at the end"
              note={
                summary.cachedTokens > 0
                  ? `prefix cache ${percent(summary.cachedTokens / Math.max(1, summary.inputTokens))} of input`
                  : "no prefix hits"
              }
            />
          </>
        )}
        <Tile
          name="Steps"
          value={countLabel(result.timeline.steps.count)}
          unit="planned"
          note={`simulated in ${durationLabel(result.tookMs * 1000)}`}
        />
      </div>
      <div className="charts">
        <Chart
          title="Time to first token"
          said={`median ${latency(ttft, "p50")} ms, 99th percentile ${latency(ttft, "p99")} ms`}
          xLabel="TTFT, ms"
          yLabel="share of requests"
          isLog
          yRange={unit}
          isDark={isDark}
          series={of(curves.ttft)}
        />
        {curves.tpot.length === 0 ? null : (
          <Chart
            title="Time per output token"
            said={`median ${latency(tpot, "p50")} ms, 99th percentile ${latency(tpot, "p99")} ms`}
            xLabel="TPOT, ms"
            yLabel="share of requests"
            isLog
            yRange={unit}
            isDark={isDark}
            series={of(curves.tpot)}
          />
        )}
        {result.itlCdf.length === 0 ? null : (
          <Chart
            title="Gap between two tokens"
            said={
              summary === null
                ? ""
                : `median ${short(summary.itl.p50)} ms, 99th percentile ${short(summary.itl.p99)} ms`
            }
            xLabel="ITL, ms"
            yLabel="share of gaps"
            isLog
            yRange={unit}
            isDark={isDark}
            series={of(result.itlCdf)}
          />
        )}
      </div>
      {summary === null ? null : <LengthTable summary={summary} />}
      {summary === null ? null : <Sweep run={run} isDark={isDark} />}
      <Provenance result={result} expectedHash={run.expectedHash} />
    </div>
  )
}

const unit = [0, 1] as const

const missesOf = (summary: NonNullable<RunModel["result"]["summary"]>): string => {
  const { rejected, tooLong, aborted, timedOut, failed, unfinished } = summary
  const parts = [
    [rejected, "rejected"],
    [tooLong, "too long"],
    [aborted, "aborted"],
    [timedOut, "timed out"],
    [failed, "failed"],
    [unfinished, "unfinished"],
  ] as const
  const said = parts.filter(([count]) => count > 0).map(([count, name]) => `${count} ${name}`)
  return said.length === 0 ? "none lost" : said.join(", ")
}

const Tile = (props: {
  readonly name: string
  readonly value: string
  readonly unit: string
  readonly note: string
}) => (
  <div className="tile">
    <h3>{props.name}</h3>
    <p className="value">
      {props.value} <span>{props.unit}</span>
    </p>
    <p className="soft">{props.note}</p>
  </div>
)
