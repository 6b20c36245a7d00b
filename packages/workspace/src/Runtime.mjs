import { spawnSync } from "node:child_process"
import { inRoot } from "./Paths.mjs"
import { Failure } from "./Terminal.mjs"

/** What the product runs on; npm and these scripts run on any Node from 20. */
const minimum = { major: 22, minor: 19 }

const bundled = inRoot("node_modules/.bin/node")

/** @param {string} version */
const isEnough = (version) => {
  const [major = 0, minor = 0] = version.split(".").map(Number)
  return major > minimum.major || (major === minimum.major && minor >= minimum.minor)
}

/**
 * The Node that runs everything but npm and these scripts: the one that the installation brought, else the caller's own
 * where it is new enough.
 */
export const runtimeNode = () => {
  const probe = spawnSync(bundled, ["--print", "process.versions.node"], { encoding: "utf8" })
  if (probe.status === 0 && isEnough(probe.stdout.trim())) return bundled
  if (isEnough(process.versions.node)) return process.execPath
  throw new Failure(
    `uniprefill runs on Node ${minimum.major}.${minimum.minor} or newer; this is Node ${process.versions.node}, ` +
      `and the copy that is installed on Linux x86-64 does not run here (${process.platform} ${process.arch}).`,
    "Install Node 24 (https://nodejs.org), put it first on PATH and run the command again.",
  )
}

/**
 * The npm that was called, with the arguments that come first; else the one on the path.
 *
 * @returns {[command: string, first: string[]]}
 */
export const npmCommand = () => {
  const program = process.env.npm_execpath
  return program !== undefined && /npm-cli\.c?js$/.test(program) ? [process.execPath, [program]] : ["npm", []]
}
