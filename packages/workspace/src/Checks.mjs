import { run } from "./Child.mjs"
import { say, task } from "./Terminal.mjs"

/** Checks of the text, each with the command that it runs and what to do when it fails. */
const checks = [
  { title: "format", command: "oxfmt", args: ["--check", "."], advice: "npm run format" },
  {
    title: "lint",
    command: "oxlint",
    args: ["--type-aware", "--deny-warnings"],
    advice: "npx oxlint --type-aware --fix",
  },
  { title: "types", command: "tsc", args: ["--build"], advice: "npx tsc -b" },
]

/**
 * Runs every check and prints what the failed ones found.
 *
 * @returns {Promise<import("./Tally.mjs").Tally>}
 */
export const runChecks = async () => {
  const tally = { passed: 0, failed: 0, skips: [] }
  for (const { title, command, args, advice } of checks) {
    const { code, output } = await task(`Checking ${title}`, (latest) => run(command, args, { onLine: latest }))
    if (code === 0) {
      tally.passed++
      continue
    }
    tally.failed++
    say(`${output.trim()}\n${title} failed; to see it again or mend it: ${advice}\n`)
  }
  return tally
}
