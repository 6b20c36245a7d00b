import * as fs from "node:fs"

/** @param {string} text */
const unescape = (text) =>
  text
    .replace(/&lt;/g, "<")
    .replace(/&gt;/g, ">")
    .replace(/&quot;/g, '"')
    .replace(/&apos;/g, "'")
    .replace(/&amp;/g, "&")

/**
 * What `ctest --output-junit` reports; nothing where there is no such file. The reason of a skip is the last line that
 * the test printed.
 *
 * @param {string} file
 * @returns {import("./Tally.mjs").Tally}
 */
export const readJunit = (file) => {
  const tally = { passed: 0, failed: 0, skips: /** @type {import("./Tally.mjs").Skip[]} */ ([]) }
  if (!fs.existsSync(file)) return tally
  const cases = /<testcase\s([^>]*?)(?:\/>|>([\s\S]*?)<\/testcase>)/g
  for (const [, attributes = "", body = ""] of fs.readFileSync(file, "utf8").matchAll(cases)) {
    const attribute = (/** @type {string} */ name) =>
      unescape((new RegExp(`\\b${name}="([^"]*)"`).exec(attributes) || [])[1] || "")
    const status = attribute("status")
    if (status === "run") tally.passed++
    else if (status === "fail" || body.includes("<failure")) tally.failed++
    else {
      const printed = unescape((/<system-out>([\s\S]*?)<\/system-out>/.exec(body) || [])[1] || "")
      tally.skips.push({ name: attribute("name"), reason: printed.trim().split("\n").pop() || status })
    }
  }
  return tally
}
