import * as fs from "node:fs"
import * as path from "node:path"
import { cacheFolder } from "./Paths.mjs"
import { say } from "./Terminal.mjs"

const lockFile = path.join(cacheFolder, "lock")

/**
 * Names a running process so that a later one with the same id is told apart, where the system says when it started.
 * Undefined when there is no such process.
 *
 * @param {number} pid
 */
const identity = (pid) => {
  try {
    process.kill(pid, 0)
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code !== "EPERM") return undefined
  }
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8")
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
    // A killed process that nobody waited for is still listed, as a zombie.
    return fields[0] === "Z" || fields[0] === "X" ? undefined : `${pid} ${fields[19]}`
  } catch {
    return `${pid}`
  }
}

const tryLock = () => {
  const own = `${lockFile}.${process.pid}`
  fs.writeFileSync(own, identity(process.pid) || "")
  try {
    fs.linkSync(own, lockFile)
    return true
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code !== "EEXIST") throw error
    return false
  } finally {
    fs.rmSync(own)
  }
}

/** The id of the process that holds the lock; takes the lock away from one that is gone. */
const owner = () => {
  try {
    const text = fs.readFileSync(lockFile, "utf8")
    const pid = parseInt(text, 10)
    if (identity(pid) === text) return pid
    fs.rmSync(lockFile, { force: true })
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code !== "ENOENT") throw error
  }
  return undefined
}

/**
 * One installation or build of this checkout at a time: waits while another process is at it.
 *
 * @template T
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
export const locked = async (work) => {
  fs.mkdirSync(cacheFolder, { recursive: true })
  let told = false
  while (!tryLock()) {
    const pid = owner()
    if (pid === undefined) continue
    if (!told) say(`waiting for process ${pid}, which is installing or building here`)
    told = true
    await new Promise((resolve) => setTimeout(resolve, 300))
  }
  const release = () => fs.rmSync(lockFile, { force: true })
  process.on("exit", release)
  try {
    return await work()
  } finally {
    process.off("exit", release)
    release()
  }
}
