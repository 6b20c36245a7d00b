#!/usr/bin/env node
// Configures and builds native/ into native/build; --test also runs the native tests, --sanitize builds and runs them under
// the address and undefined-behaviour sanitizers in native/build/sanitize. Plain ES2020, so that any Node runs it.
import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, lstatSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { createRequire } from "node:module"
import * as os from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(fileURLToPath(import.meta.url))
const flags = process.argv.slice(2)
const sanitize = flags.includes("--sanitize")
const test = sanitize || flags.includes("--test")
const build = join(root, "build", sanitize ? "sanitize" : "")
const quiet = !process.stdout.isTTY

const fail = (message) => {
  process.stderr.write(`native: ${message}\n`)
  process.exit(1)
}

const unknown = flags.find((flag) => flag !== "--test" && flag !== "--sanitize")
if (unknown !== undefined) fail(`unknown flag ${unknown}; known: --test, --sanitize`)

/** Runs a tool; shows its output as it comes on a terminal, and only when it fails where there is none. */
const run = (command, args, onFailure = () => {}) => {
  const result = spawnSync(command, args, { cwd: root, stdio: quiet ? "pipe" : "inherit", maxBuffer: 1 << 28 })
  if (result.error) fail(`${command}: ${result.error.message}`)
  if (result.status === 0) return result
  onFailure()
  if (quiet) process.stderr.write(`${String(result.stdout ?? "")}${String(result.stderr ?? "")}`)
  fail(`${command} ${args.join(" ")} failed with ${result.signal || `status ${result.status}`}`)
}

const isThere = (command) => spawnSync(command, ["--version"], { stdio: "ignore" }).status === 0
const compiler = process.env.CXX || "g++"
const missing = []
if (!isThere("cmake")) missing.push(["CMake", "cmake"])
if (!isThere(compiler)) missing.push([`a C++20 compiler (${compiler})`, "g++"])
if (!isThere("make") && !process.env.CMAKE_GENERATOR) missing.push(["make", "make"])
if (missing.length > 0) {
  fail(
    `${missing.map(([name]) => name).join(" and ")} not found. On Debian and Ubuntu: ` +
      `apt-get install ${missing.map(([, name]) => name).join(" ")}`,
  )
}

const packageDirectory = (name) => {
  try {
    return dirname(createRequire(join(root, "package.json")).resolve(`${name}/package.json`))
  } catch (error) {
    return fail(`${name} is not installed: run npm ci in the repository's root (${error.code})`)
  }
}

const options = [
  `-DNODE_ADDON_API_DIR=${packageDirectory("node-addon-api")}`,
  `-DNODE_API_HEADERS_DIR=${join(packageDirectory("node-api-headers"), "include")}`,
  `-DUP_SANITIZE=${sanitize ? "ON" : "OFF"}`,
]
if (sanitize) options.push("-DUP_CUDA=OFF")

// CMake looks at its own files again by itself; configuring is only needed when what we ask of it changes.
mkdirSync(build, { recursive: true })
const stampFile = join(build, ".configured")
const stamp = createHash("sha256")
  .update(JSON.stringify([root, options, process.env.CXX, process.env.CC, process.env.CMAKE_GENERATOR]))
  .digest("hex")
const configured = existsSync(stampFile) && existsSync(join(build, "CMakeCache.txt"))
if (!configured || readFileSync(stampFile, "utf8") !== stamp) {
  const fresh = existsSync(join(build, "CMakeCache.txt")) ? ["--fresh"] : []
  run("cmake", [...fresh, "-S", root, "-B", build, ...options])
  writeFileSync(stampFile, stamp)
}

// make takes a file that is there for finished, and a killed build may leave one that is not. What was linked and is not as
// the last build left it is linked again; where objects of a killed build do not link, everything is compiled again.
const linked = () =>
  [build, join(build, "bin")]
    .filter((folder) => existsSync(folder))
    .flatMap((folder) => readdirSync(folder).map((name) => join(folder, name)))
    .filter((file) => /\.(node|so[.\d]*)$|\/bin\//.test(file) && lstatSync(file).isFile())
    .map((file) => [file, lstatSync(file).size])
const linkedFile = join(build, ".linked")
const beginningFile = join(build, ".building")
const before = existsSync(linkedFile) ? JSON.parse(readFileSync(linkedFile, "utf8")) : {}
for (const [file, bytes] of linked()) if (before[file] !== bytes) rmSync(file)
// Two at least, as one waits for the disk; eight at most, as a compiler takes up to 0.7 GB.
const cores = os.availableParallelism ? os.availableParallelism() : os.cpus().length
const parallel = String(Math.min(8, Math.max(2, cores)))
const compile = ["cmake", ["--build", build, "--parallel", parallel, "--target", test ? "all" : "runtime"]]
const wasKilled = existsSync(beginningFile)
writeFileSync(beginningFile, "")
if (wasKilled && spawnSync(...compile, { stdio: "ignore" }).status !== 0) {
  run("cmake", ["--build", build, "--target", "clean"])
}
run(...compile, () => rmSync(beginningFile))
rmSync(beginningFile)
writeFileSync(linkedFile, JSON.stringify(Object.fromEntries(linked())))
if (test) {
  const report = ["--output-on-failure", "--output-junit", "junit.xml"]
  const result = run("ctest", ["--test-dir", build, "--parallel", parallel, ...report])
  if (quiet) process.stdout.write(`${result.stdout.toString().trim().split("\n").slice(-3).join("\n")}\n`)
}
