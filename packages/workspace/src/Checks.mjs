import { run } from "./Child.mjs"
import { inRoot } from "./Paths.mjs"
import { say, task } from "./Terminal.mjs"

/** @typedef {{ title: string; command: string; args: string[]; advice: string }} Check */

/**
 * The API documentation, from the docstrings, into `dist/api`: a link to nothing fails it.
 *
 * @type {Check}
 */
export const documentation = {
  title: "documentation",
  command: inRoot("packages/workspace/node_modules/.bin/typedoc"),
  args: ["--options", inRoot("packages/workspace/typedoc.json")],
  advice: "npm run docs",
}

/**
 * Checks of the text, each with the command that it runs and what to do when it fails.
 *
 * @type {Check[]}
 */
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
 * @param {Check[]} more Those that take too long for the inner loop.
 * @returns {Promise<import("./Tally.mjs").Tally>}
 */
export const runChecks = async (more = []) => {
  const tally = { passed: 0, failed: 0, skips: [] }
  for (const { title, command, args, advice } of [...checks, ...more]) {
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
