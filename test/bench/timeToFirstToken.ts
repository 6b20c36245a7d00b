/**
 * Time to first token of an 8K-token prompt on the embedded model, dense and with UniPrefill, in alternating pairs through
 * the whole engine. Prints one row; exits with 1 when the median ratio is above the limit.
 * Run: npm run bench -- timeToFirstToken [pairs]
 */
import { execFileSync } from "node:child_process"
import { fileURLToPath } from "node:url"

const limit = 0.7
const pairs = Number(process.argv[2] ?? 7)

interface Side {
  readonly correct: boolean
  readonly ttftMillis: number
  readonly ttftsMillis: ReadonlyArray<number>
}

const program = fileURLToPath(new URL("../../apps/server/bin/uniprefill.mjs", import.meta.url))
const output = execFileSync(process.execPath, [program, "demo", "--json", "--repeat", String(pairs)], {
  stdio: ["ignore", "pipe", "ignore"],
  maxBuffer: 1 << 26,
})
const report = JSON.parse(output.toString()) as {
  readonly device: string
  readonly promptTokens: number
  readonly dense: Side
  readonly uniprefill: Side
  readonly segments: ReadonlyArray<{ readonly rows: number }>
}
const { dense, uniprefill } = report
const ratios = dense.ttftsMillis.map((millis, pair) => uniprefill.ttftsMillis[pair]! / millis)
const ratio = ratios.toSorted((a, b) => a - b)[Math.floor(ratios.length / 2)]!
console.log(
  JSON.stringify({
    device: report.device,
    promptTokens: report.promptTokens,
    rows: report.segments.map((segment) => segment.rows),
    pairs,
    denseMedianMillis: Math.round(dense.ttftMillis),
    uniprefillMedianMillis: Math.round(uniprefill.ttftMillis),
    medianRatio: Number(ratio.toFixed(3)),
    limit,
    bothCorrect: dense.correct && uniprefill.correct,
  }),
)
if (ratio > limit) process.exitCode = 1
