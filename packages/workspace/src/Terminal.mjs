/** What people see: one line that moves on a terminal, one plain line per task elsewhere. */

const live = process.stderr.isTTY && process.env.CI !== "true"

/** Something went wrong that a person can act on: what happened, and in `advice` what to do next. */
export class Failure extends Error {
  /**
   * @param {string} message
   * @param {string} [advice]
   */
  constructor(message, advice) {
    super(message)
    /** @readonly */
    this.advice = advice
  }
}

/** @param {string} line */
export const say = (line) => void process.stderr.write(`${line}\n`)

/** @param {number} startedMs */
const elapsed = (startedMs) => {
  const seconds = (Date.now() - startedMs) / 1000
  return seconds < 60
    ? `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`
    : `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`
}

/**
 * Runs one task under a title. `work` may call its argument with the latest line of output, shown beside the title on a
 * terminal.
 *
 * @template T
 * @param {string} title
 * @param {(latest: (line: string) => void) => Promise<T>} work
 * @returns {Promise<T>}
 */
export const task = async (title, work) => {
  const startedMs = Date.now()
  if (!live) {
    say(`${title} …`)
    return work(() => {})
  }
  let latest = ""
  const draw = () => {
    const width = Math.max(20, (process.stderr.columns || 80) - 1)
    const line = `… ${title}  ${elapsed(startedMs)}${latest === "" ? "" : `  ${latest}`}`
    process.stderr.write(`\r\x1b[2K${line.slice(0, width)}`)
  }
  draw()
  const timer = setInterval(draw, 250)
  let mark = "✗"
  try {
    const result = await work((line) => {
      latest = line.trim()
    })
    mark = "✓"
    return result
  } finally {
    clearInterval(timer)
    process.stderr.write(`\r\x1b[2K${mark} ${title}  ${elapsed(startedMs)}\n`)
  }
}
