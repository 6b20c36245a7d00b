/**
 * Loaded into a server with `--import`: how long its event loop was kept from serving others. At SIGUSR2 it says the longest
 * turn since the last time, as processor time of the main thread and on the clock, and begins anew.
 */
let cpu = process.threadCpuUsage()
let wall = performance.now()
let longest = { cpuMs: 0, wallMs: 0 }

const tick = () => {
  const used = process.threadCpuUsage(cpu)
  const now = performance.now()
  longest = {
    cpuMs: Math.max(longest.cpuMs, (used.user + used.system) / 1000),
    wallMs: Math.max(longest.wallMs, now - wall),
  }
  cpu = process.threadCpuUsage()
  wall = now
}
setInterval(tick, 1).unref()

process.on("SIGUSR2", () => {
  process.stderr.write(`turns ${JSON.stringify(longest)}\n`)
  longest = { cpuMs: 0, wallMs: 0 }
})
