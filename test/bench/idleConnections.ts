import { readFileSync } from "node:fs"
import { connect, type Socket } from "node:net"
import { Metrics, nothing, settled } from "../e2e/Metrics.ts"
import { ServeProcess } from "../e2e/ServeProcess.ts"
import { StreamClient } from "../e2e/StreamClient.ts"

/**
 * Ten thousand connections that say nothing, and ten thousand that say nothing more after a request, beside a stream that is
 * compared with what it is alone: what they cost in memory, when they are closed, and that nothing else notices.
 *
 *     npm run bench -- idleConnections [CONNECTIONS]
 */
const count = Number(process.argv[2] ?? 10_000)
const settings = ["--executor", "sim", "--time-scale", "0.2", "--sim-output", "random", "--log-level", "warn"]
await using server = await ServeProcess.start(...settings, "--keep-alive-seconds", "5")
const client = new StreamClient(server.url)
const witness = {
  prompt: "The quick brown fox",
  max_tokens: 400,
  temperature: 1,
  seed: 5,
  ignore_eos: true,
  stream: true,
}
const expected = (await client.stream(witness)).text

const megabytes = () => Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${server.pid}/status`, "utf8"))![1]) / 1024

const open = (): Promise<Socket> =>
  new Promise((resolve, reject) => {
    const socket = connect(Number(new URL(server.url).port), "127.0.0.1", () => resolve(socket))
    socket.on("error", reject)
  })

const state = { going: true, streams: 0, wrong: 0, worstMs: 0 }
const watching = (async () => {
  while (state.going) {
    const { text, longestGapMs } = await client.stream(witness)
    state.streams++
    state.worstMs = Math.max(state.worstMs, longestGapMs)
    if (text !== expected) state.wrong++
  }
})()

for (const request of ["", "GET /health HTTP/1.1\r\nhost: x\r\n\r\n"]) {
  const before = megabytes()
  const began = performance.now()
  const sockets: Array<Socket> = []
  const answers: Array<string> = []
  while (sockets.length < count) {
    for (const socket of await Promise.all(Array.from({ length: 100 }, open))) {
      const at = sockets.push(socket) - 1
      answers[at] = ""
      socket.on("data", (chunk: Buffer) => (answers[at] += chunk.toString().slice(0, 12)))
      if (request !== "") socket.write(request)
    }
  }
  const opened = performance.now() - began
  const each = ((megabytes() - before) * 1024) / count
  const health = await fetch(`${server.url}/health`)
  await Promise.all(
    sockets
      .filter((socket) => !socket.destroyed)
      .map((socket) => new Promise((resolve) => socket.on("close", resolve))),
  )
  const statuses = Map.groupBy(answers, (answer) => answer.slice(9, 12) || "nothing")
  console.log(
    `${count} connections that ${request === "" ? "say nothing" : "are idle after a request"}: opened in ` +
      `${(opened / 1000).toFixed(1)} s, ${each.toFixed(1)} KiB each, /health ${health.status}; all closed after ` +
      `${((performance.now() - began) / 1000).toFixed(1)} s; answered: ` +
      [...statuses].map(([status, { length }]) => `${status} × ${length}`).join(", "),
  )
}
state.going = false
await watching
const left = await settled(server.url)
const failures = (await Metrics.read(server.url)).value("http_requests_total", { status: "5xx" }) ?? 0
console.log(
  `beside them ${state.streams} streams, of which ${state.wrong} were not what they are alone; longest time between two ` +
    `events ${state.worstMs.toFixed(0)} ms; answers of 5xx: ${failures}; left: ${JSON.stringify(left)}; ` +
    `memory ${megabytes().toFixed(0)} MB`,
)
client.close()
if (state.wrong > 0 || failures > 0 || JSON.stringify(left) !== JSON.stringify(nothing)) process.exitCode = 1
