import { run } from "./Child.mjs"
import { locked } from "./Lock.mjs"
import { inRoot } from "./Paths.mjs"
import { runtimeNode } from "./Runtime.mjs"
import { Failure, task } from "./Terminal.mjs"

/**
 * What the failed tasks said, without turbo's and npm's own words; everything where no task is named.
 *
 * @param {string} output
 */
export const failureLines = (output) => {
  const failed = (/^ *Failed: *(.*)$/m.exec(output) || [])[1] || ""
  const prefixes = failed.split(/,\s*/).map((name) => `${name.replace("#", ":")}: `)
  const lines = output.split("\n").flatMap((line) => {
    const prefix = prefixes.find((each) => line.startsWith(each))
    return prefix === undefined ? [] : [line.slice(prefix.length)]
  })
  const own = lines.filter((line) => !/^(npm (warn|error)|> |cache (miss|hit|bypass))|^\s*$/.test(line))
  return own.length > 0 ? `${failed}\n${own.join("\n")}` : output.trim()
}

/**
 * @param {readonly string[]} filters
 * @param {(line: string) => void} latest
 */
const turbo = async (filters, latest) => {
  const fixed = ["run", "build", "--output-logs=full", "--log-prefix=task", "--no-color"]
  const args = [inRoot("node_modules/turbo/bin/turbo"), ...fixed, ...filters]
  const { code, output } = await run(runtimeNode(), args, { onLine: latest })
  if (code !== 0) throw new Failure(`the build failed in ${failureLines(output)}`)
}

/** Builds what is missing or out of date. */
export const ensureBuilt = () =>
  locked(() => task("Building TypeScript and native code", (latest) => turbo([], latest)))

/**
 * Builds one workspace and what it depends on, and no more: what it does not need may not even build here.
 *
 * @param {string} name
 */
export const ensureOneBuilt = (name) =>
  locked(() => task(`Building ${name}`, (latest) => turbo([`--filter=${name}`], latest)))
