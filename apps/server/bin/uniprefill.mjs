#!/usr/bin/env node
// Runs under any Node from 14 on: finds one that is new enough for the program and runs the program with it.
import { spawn, spawnSync } from "node:child_process"
import { existsSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"

const minimum = [22, 19]
const here = dirname(dirname(fileURLToPath(import.meta.url)))

const isEnough = (version) => {
  const [major, minor] = version.split(".").map(Number)
  return major > minimum[0] || (major === minimum[0] && minor >= minimum[1])
}

const findNode = () => {
  for (let folder = here; ; folder = dirname(folder)) {
    const candidate = join(folder, "node_modules", ".bin", "node")
    if (existsSync(candidate)) {
      const probe = spawnSync(candidate, ["--print", "process.versions.node"], { encoding: "utf8" })
      if (probe.status === 0 && isEnough(probe.stdout.trim())) return candidate
    }
    if (folder === dirname(folder)) return undefined
  }
}

const built = join(here, "dist", "main.js")
const isBuilt = existsSync(built)
const main = isBuilt ? built : join(here, "src", "main.ts")
const arguments_ = process.argv.slice(2)

if (isEnough(process.versions.node) && (isBuilt || process.execArgv.includes("--conditions=source"))) {
  import(pathToFileURL(main).href).catch((error) => {
    process.stderr.write(`uniprefill: cannot start: ${error.stack}\n`)
    process.exit(1)
  })
} else {
  const node = isEnough(process.versions.node) ? process.execPath : findNode()
  if (node === undefined) {
    process.stderr.write(
      `uniprefill: needs Node ${minimum.join(".")} or newer; this is Node ${process.versions.node}, and there is no ` +
        `newer one in node_modules/.bin. Install Node 24 (https://nodejs.org), or run npm ci again.\n`,
    )
    process.exit(1)
  }
  const child = spawn(node, [...(isBuilt ? [] : ["--conditions=source"]), main, ...arguments_], {
    // The channel tells the program when this process is killed: it must not outlive it and keep the port.
    stdio: ["inherit", "inherit", "inherit", "ipc"],
  })
  // Signals may come to this process alone. A terminal sends Ctrl-C to both; the program takes two at once as one.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal))
  child.on("error", (error) => {
    process.stderr.write(`uniprefill: cannot run ${node}: ${error.message}\n`)
    process.exit(1)
  })
  child.on("exit", (code, signal) => {
    if (signal === null) process.exit(code === null ? 1 : code)
    process.removeAllListeners(signal)
    process.kill(process.pid, signal)
  })
}
