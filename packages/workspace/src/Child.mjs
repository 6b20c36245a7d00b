import { spawn } from "node:child_process"
import * as path from "node:path"
import { inRoot } from "./Paths.mjs"
import { Failure, say } from "./Terminal.mjs"

/** Bytes of a quiet child's output that are kept to be shown when it fails: the newest. */
const outputLimit = 4 * 1024 * 1024

/** A signal ended the run. */
class Interrupted extends Error {
  /** @param {NodeJS.Signals} signal */
  constructor(signal) {
    super(`stopped by ${signal}`)
    this.signal = signal
  }
}

/** @type {Set<import("node:child_process").ChildProcess>} */
const running = new Set()
/** @type {NodeJS.Signals | undefined} */
let stoppedBy
let lastSignalMs = 0

/**
 * Ctrl-C reaches a child twice: from the terminal, which signals the whole foreground group, and from npm, which passes
 * on what it gets. A child must see it once (a server's second signal means "now"), so SIGINT is passed on only where
 * no terminal has done so, and repetitions within a second are one.
 *
 * @param {NodeJS.Signals} signal
 */
const onSignal = (signal) => {
  const now = Date.now()
  const repeated = signal === stoppedBy && now - lastSignalMs < 1000
  stoppedBy = signal
  lastSignalMs = now
  if (running.size === 0) process.exit(exitCodeOf(null, signal))
  if (repeated || (signal === "SIGINT" && process.stdin.isTTY)) return
  for (const child of running) child.kill(signal)
}

/**
 * @param {number | null} code
 * @param {NodeJS.Signals | null} signal
 */
const exitCodeOf = (code, signal) =>
  signal === null
    ? (code ?? 1)
    : 128 + ({ SIGHUP: 1, SIGINT: 2, SIGKILL: 9, SIGTERM: 15 }[/** @type {string} */ (signal)] || 0)

/**
 * @typedef {object} ChildOptions
 * @property {Record<string, string>} [env] Added to the environment.
 * @property {(line: string) => void} [onLine] Keeps the output back and reports each line of it instead.
 */

/**
 * Runs a program in the repository's root with `node_modules/.bin` first on PATH, to its end.
 *
 * @param {string} command
 * @param {readonly string[]} args
 * @param {ChildOptions} [options]
 * @returns {Promise<{ code: number; output: string }>} `output` is empty unless `onLine` is given.
 */
export const run = async (command, args, options = {}) => {
  const { env = {}, onLine } = options
  const searchPath = [inRoot("node_modules/.bin"), process.env.PATH].join(path.delimiter)
  const child = spawn(command, args, {
    cwd: inRoot(),
    env: { ...process.env, TURBO_TELEMETRY_DISABLED: "1", ...env, PATH: searchPath },
    stdio: onLine === undefined ? "inherit" : ["ignore", "pipe", "pipe"],
  })
  running.add(child)
  let output = ""
  let partial = ""
  if (onLine !== undefined) {
    const take = (/** @type {string} */ text) => {
      output = (output + text).slice(-outputLimit)
      const lines = (partial + text).split("\n")
      partial = lines.pop() || ""
      for (const line of lines) if (line.trim() !== "") onLine(line)
    }
    for (const stream of [child.stdout, child.stderr]) if (stream) stream.setEncoding("utf8").on("data", take)
  }
  const code = await new Promise((resolve, reject) => {
    child.on("error", (error) => reject(new Failure(`cannot run ${command}: ${error.message}`)))
    child.on("close", (exit, signal) => resolve(exitCodeOf(exit, signal)))
  }).finally(() => running.delete(child))
  if (stoppedBy !== undefined && onLine !== undefined) throw new Interrupted(stoppedBy)
  return { code, output }
}

/**
 * Runs an entry script. Failures are printed with what to do next; the exit code is what `body` returns.
 *
 * @param {() => Promise<number>} body
 */
export const main = (body) => {
  for (const signal of /** @type {const} */ (["SIGINT", "SIGTERM", "SIGHUP"])) process.on(signal, onSignal)
  body().then(
    (code) => process.exit(code),
    (error) => {
      if (error instanceof Interrupted) process.exit(exitCodeOf(null, error.signal))
      if (error instanceof Failure) {
        say(`\nerror: ${error.message}`)
        if (error.advice !== undefined) say(error.advice)
      } else say(error instanceof Error ? error.stack || error.message : String(error))
      process.exit(1)
    },
  )
}
