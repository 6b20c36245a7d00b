import type { Outcome, Score, Variant } from "./AccuracyRun.ts"
import { mcNemar, mean, meanWithin, median, wilson } from "./Statistics.ts"

/** What `uniprefill accuracy` found; with --json, as it is. Shares are 0 to 1, times ms, divergences nats. */
export interface AccuracyReport {
  readonly format: "uniprefill-accuracy"
  readonly version: 1
  readonly model: string
  readonly device: string
  readonly schedule: ReadonlyArray<{ readonly layer: number; readonly p: number }>
  readonly seed: number
  readonly variants: ReadonlyArray<string>
  /** By task and length, then by task over all lengths, then all together. */
  readonly groups: ReadonlyArray<Group>
  /** What follows from it, in words. */
  readonly findings: ReadonlyArray<string>
  /** Of tasks that rest on one place: by depth and length. */
  readonly heat: ReadonlyArray<HeatMap>
}

export interface Group {
  /** Null: all of them. */
  readonly task: string | null
  readonly length: number | null
  readonly prompts: number
  /** In the order of the variants, dense first. */
  readonly results: ReadonlyArray<Result>
}

export interface Result {
  readonly right: number
  readonly accuracy: number
  /** 95%, Wilson's. */
  readonly interval: readonly [low: number, high: number]
  /** Prompts that dense has right and this wrong, and the other way round; how likely that is by chance (exact McNemar). */
  readonly lost: number
  readonly won: number
  readonly pValue: number
  readonly firstKl: { readonly mean: number; readonly half: number }
  readonly answerKl: { readonly mean: number; readonly half: number }
  /** Mean share of the prompt's rows in each segment. */
  readonly kept: ReadonlyArray<number>
  /** Median of the prompts whose first layers nobody had computed before; null where there was none. */
  readonly ttftMs: number | null
  readonly timed: number
}

export interface HeatMap {
  readonly variant: string
  readonly task: string
  readonly lengths: ReadonlyArray<number>
  /** `cells[depth][length]`: right and all, of prompts whose answer lies in that tenth of the text. */
  readonly cells: ReadonlyArray<ReadonlyArray<readonly [right: number, of: number]>>
}

/** Parts of a text's depth in a heat map. */
export const depthParts = 10

export const accuracyReport = (
  about: Pick<AccuracyReport, "model" | "device" | "schedule" | "seed">,
  variants: ReadonlyArray<Variant>,
  outcomes: ReadonlyArray<Outcome>,
): AccuracyReport => {
  const tasks = [...new Set(outcomes.map(({ task }) => task))]
  const lengths = [...new Set(outcomes.map(({ length }) => length))].toSorted((a, b) => a - b)
  const group = (task: string | null, length: number | null): Group => {
    const own = outcomes.filter(
      (one) => (task === null || one.task === task) && (length === null || one.length === length),
    )
    return { task, length, prompts: own.length, results: variants.map((_, v) => resultOf(own, v)) }
  }
  // Prompts of a file have lengths of their own: no group for each.
  const isOneLength = lengths.length > mostLengths
  const byLength =
    isOneLength || lengths.length === 1 ? [] : tasks.flatMap((task) => lengths.map((length) => group(task, length)))
  const groups = [...byLength, ...tasks.map((task) => group(task, null)), group(null, null)].filter(
    ({ prompts }) => prompts > 0,
  )
  return {
    format: "uniprefill-accuracy",
    version: 1,
    ...about,
    variants: variants.map(({ name }) => name),
    groups,
    findings: findingsOf(variants, groups),
    heat: isOneLength ? [] : heatMaps(outcomes, variants, tasks, lengths),
  }
}

const mostLengths = 12

const resultOf = (outcomes: ReadonlyArray<Outcome>, variant: number): Result => {
  const scores = outcomes.map((one) => one.scores[variant]!)
  const right = scores.filter(({ isRight }) => isRight).length
  const lost = outcomes.filter(({ scores: all }) => all[0]!.isRight && !all[variant]!.isRight).length
  const won = outcomes.filter(({ scores: all }) => !all[0]!.isRight && all[variant]!.isRight).length
  const timed = scores.flatMap(({ ttftMicros }) => (ttftMicros === null ? [] : [ttftMicros / 1000]))
  const within = (of: (score: Score) => number) => {
    const [middle, half] = meanWithin(scores.map(of))
    return { mean: middle, half }
  }
  return {
    right,
    accuracy: scores.length === 0 ? 0 : right / scores.length,
    interval: scores.length === 0 ? [0, 1] : wilson(right, scores.length),
    lost,
    won,
    pValue: mcNemar(lost, won),
    firstKl: within((score) => score.firstKl),
    answerKl: within((score) => score.answerKl),
    kept: (scores[0]?.kept ?? []).map((_, segment) => mean(scores.map(({ kept }) => kept[segment] ?? 1))),
    ttftMs: timed.length === 0 ? null : median(timed),
    timed: timed.length,
  }
}

/** Below this share dense itself cannot do a task, and what dropping costs there cannot be told. */
const hopeless = 0.2

const findingsOf = (variants: ReadonlyArray<Variant>, groups: ReadonlyArray<Group>): Array<string> => {
  const findings: Array<string> = []
  for (const [v, { name }] of variants.entries()) {
    if (v === 0) continue
    for (const { task, length, prompts, results } of groups) {
      if (task === null || length !== null) continue
      const [dense, own] = [results[0]!, results[v]!]
      if (dense.accuracy < hopeless) {
        if (v === 1)
          findings.push(`${task}: dense is right in ${dense.right} of ${prompts}, so this says nothing about dropping.`)
      } else if (own.pValue < 0.05 && own.lost > own.won)
        findings.push(
          `${task}: ${name} LOSES ${own.lost - own.won} of ${prompts} (${percent(dense.accuracy)} → ${percent(own.accuracy)}, p = ${own.pValue.toPrecision(2)}).`,
        )
      else if (own.lost > own.won)
        findings.push(
          `${task}: ${name} loses ${own.lost - own.won} of ${prompts}, which chance alone could do (p = ${own.pValue.toPrecision(2)}).`,
        )
    }
    const all = groups.at(-1)!
    const own = all.results[v]!
    const kept = own.kept.slice(1).map(percent).join(", ")
    const told = own.pValue < 0.05 ? "which is more than chance" : "which chance alone could do"
    findings.push(
      own.lost === 0 && own.won === 0
        ? `${name}: every one of ${all.prompts} prompts is right or wrong as it is dense; rows kept ${kept}.`
        : `${name}: of ${all.prompts} prompts ${own.lost} are lost and ${own.won} won, ${told} (p = ${own.pValue.toPrecision(2)}); rows kept ${kept}.`,
    )
  }
  return findings
}

export const percent = (share: number): string => `${(100 * share).toFixed(share > 0.995 && share < 0.9995 ? 1 : 0)}%`

const heatMaps = (
  outcomes: ReadonlyArray<Outcome>,
  variants: ReadonlyArray<Variant>,
  tasks: ReadonlyArray<string>,
  lengths: ReadonlyArray<number>,
): Array<HeatMap> =>
  tasks
    .filter((task) => outcomes.some((one) => one.task === task && one.depth !== null))
    .flatMap((task) =>
      variants.map(({ name }, v) => ({
        variant: name,
        task,
        lengths,
        cells: Array.from({ length: depthParts }, (_, part) =>
          lengths.map((length) => {
            const own = outcomes.filter(
              (one) =>
                one.task === task &&
                one.length === length &&
                one.depth !== null &&
                Math.min(depthParts - 1, Math.floor(one.depth * depthParts)) === part,
            )
            return [own.filter(({ scores }) => scores[v]!.isRight).length, own.length] as const
          }),
        ),
      })),
    )

/** The report as text. */
export const accuracyText = (report: AccuracyReport): string => {
  const { model, device, schedule, variants, groups, findings } = report
  const rows: Array<ReadonlyArray<string>> = [
    ["task", "tokens", "n", "variant", "right", "95%", "lost", "won", "first KL", "rows kept", "TTFT"],
  ]
  for (const { task, length, prompts, results } of groups) {
    for (const [v, result] of results.entries()) {
      rows.push([
        v === 0 ? (task ?? "all") : "",
        v === 0 ? (length === null ? "all" : String(length)) : "",
        v === 0 ? String(prompts) : "",
        variants[v]!,
        percent(result.accuracy),
        result.interval.map(percent).join("–"),
        v === 0 ? "" : String(result.lost),
        v === 0 ? "" : String(result.won),
        v === 0 ? "" : result.firstKl.mean.toPrecision(2),
        result.kept.slice(1).map(percent).join(" "),
        result.ttftMs === null ? "" : `${result.ttftMs.toFixed(0)} ms`,
      ])
    }
  }
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  const isText = new Set([0, 3, 9])
  const lines = rows.map((row) =>
    row
      .map((cell, c) => (isText.has(c) ? cell.padEnd(widths[c]!) : cell.padStart(widths[c]!)))
      .join("  ")
      .trimEnd(),
  )
  const drops = schedule.map(({ layer, p }) => `${layer} (p ${p})`).join(", ")
  return [`${model} on ${device}; drops at layers ${drops}`, "", ...lines, "", ...findings, ""].join("\n")
}
