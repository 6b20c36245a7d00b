import { estimate, pairedDifference, type Estimate } from "@uniprefill/simulator/explore/Interval"
import { measures, type MeasureName } from "@uniprefill/simulator/explore/Measures"
import type { Summary } from "@uniprefill/simulator/metrics/Summary"
import { useStudio, useStudioState } from "../state/Context.ts"
import type { Run } from "../state/StudioState.ts"
import { short } from "../ui/Chart.tsx"

/** Measures of TTFT, ITL, goodput and what goes with them. */
const shown: ReadonlyArray<MeasureName> = [
  "ttftMean",
  "ttftP50",
  "ttftP99",
  "tpotP50",
  "tpotP99",
  "maxItlP99",
  "e2eP50",
  "goodput",
  "attainment",
  "throughput",
  "memoryMax",
]

const seedCounts = [3, 5, 10] as const

/** What two runs come to, and the difference with its interval once other seeds were simulated too. */
export const DifferenceTable = ({ base, run }: { readonly base: Run; readonly run: Run }) => {
  const studio = useStudio()
  const study = useStudioState((state) => state.seeds)
  const [a, b] = [base.model!.result.summary, run.model!.result.summary]
  if (a === null || b === null) return null
  const isOwn = study !== null && study.base === base.id && study.other === run.id
  const pairs: ReadonlyArray<readonly [Summary, Summary]> = isOwn ? study.pairs : [[a, b]]
  const isRunning = isOwn && study.error === "" && study.pairs.length < study.wanted
  return (
    <section className="card wide" aria-labelledby="difference-title">
      <div className="row between wrap">
        <h3 id="difference-title">
          {run.letter} − {base.letter}
        </h3>
        <div className="row" role="group" aria-label="Simulate other seeds too">
          <span className="soft">
            {isRunning
              ? `seed ${study.pairs.length + 1} of ${study.wanted} …`
              : pairs.length > 1
                ? `over ${pairs.length} seeds`
                : "one seed; over"}
          </span>
          {seedCounts.map((count) => (
            <button
              key={count}
              type="button"
              disabled={isRunning}
              onClick={() => void studio.studySeeds(base, run, count)}
            >
              {count} seeds
            </button>
          ))}
        </div>
      </div>
      {isOwn && study.error !== "" ? (
        <p className="fault" role="alert">
          {study.error}
        </p>
      ) : null}
      <div className="scroll" tabIndex={0} role="region" aria-labelledby="difference-title">
        <table className="grid differences">
          <thead>
            <tr>
              <th scope="col">{pairs.length > 1 ? "mean over seeds" : "measure"}</th>
              <th scope="col">{base.letter}</th>
              <th scope="col">{run.letter}</th>
              <th scope="col">difference</th>
              <th scope="col">
                <span className="visually-hidden">verdict</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {shown.map((name) => (
              <Row key={name} name={name} pairs={pairs} />
            ))}
          </tbody>
        </table>
      </div>
      <p className="soft">
        {pairs.length > 1
          ? "Both runs of a seed see the same requests and draws; ± is the 95% interval of the paired difference (Student's t). The change comes at the same moment in every seed."
          : "One seed says what happened here, not what happens in general: simulate more seeds for an interval."}
      </p>
    </section>
  )
}

const Row = ({
  name,
  pairs,
}: {
  readonly name: MeasureName
  readonly pairs: ReadonlyArray<readonly [Summary, Summary]>
}) => {
  const { label, of, higherIsBetter } = measures[name]
  const before = pairs.map(([one]) => of(one))
  const after = pairs.map(([, one]) => of(one))
  const difference = pairedDifference(after, before)
  const verdict = verdictOf(difference, higherIsBetter)
  return (
    <tr>
      <th scope="row">{label}</th>
      <td>{short(estimate(before).mean)}</td>
      <td>{short(estimate(after).mean)}</td>
      <td className={verdict.kind}>
        {signed(difference.mean)}
        {Number.isNaN(difference.half) ? "" : ` ± ${short(difference.half)}`}
      </td>
      <td>
        <span className={`chip ${verdict.kind}`}>{verdict.text}</span>
      </td>
    </tr>
  )
}

/** What is shown as zero has no sign. */
const signed = (value: number): string => {
  const text = short(value)
  return value > 0 && text !== "0" && text !== "–" ? `+${text}` : text.replace("-", "−")
}

/** Better or worse only where the interval leaves no doubt; of one seed, what happened. */
const verdictOf = (
  { mean, half }: Estimate,
  higherIsBetter: boolean,
): { readonly text: string; readonly kind: string } => {
  if (Number.isNaN(mean) || mean === 0) return { text: "same", kind: "" }
  if (!Number.isNaN(half) && Math.abs(mean) <= half) return { text: "not told apart", kind: "" }
  const isBetter = mean > 0 === higherIsBetter
  return isBetter ? { text: "better", kind: "good" } : { text: "worse", kind: "bad" }
}
