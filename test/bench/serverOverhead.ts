import { spawn } from "node:child_process"
import { readFileSync, rmSync, writeFileSync } from "node:fs"
import { setPriority, tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { ServeProcess } from "../e2e/ServeProcess.ts"
import { stepsOf } from "../e2e/StepsOf.ts"
import { StreamClient } from "../e2e/StreamClient.ts"

/**
 * What HTTP and the engine cost, over an executor that costs nothing: processor time of the server, all its threads
 * together, for a request and for a streamed token, as fast as it can and at 50 tokens a second and stream, where every
 * token is an event of its own; and what a short prompt waits for while others send bodies of 15 MB.
 *
 *     npm run bench -- serverOverhead [STREAMS [TOKENS]]
 */
if (process.argv[2] === "flood") await flooding(process.argv[3]!)
else await measure()

async function flooding(url: string): Promise<void> {
  // Where processors are few, what the flood itself costs is not the server's doing.
  setPriority(19)
  const client = new StreamClient(url)
  const bodies = [
    JSON.stringify({ prompt: "word ".repeat(3_000_000) }),
    "[".repeat(14_000_000),
    `{${Array.from({ length: 900_000 }, (_, i) => `"k${i}":1`).join(",")}}`,
    JSON.stringify({ prompt: Array(3_500_000).fill(512) }),
  ]
  const flood = { going: true, sent: 0 }
  process.stdin.on("end", () => (flood.going = false)).resume()
  const sending = bodies.map(async (text) => {
    while (flood.going) {
      await client.postText("/v1/completions", text)
      if (flood.sent++ === 0) process.stdout.write("going\n")
    }
  })
  await Promise.all(sending)
  process.stdout.write(`${flood.sent}\n`)
  client.close()
}

async function measure(): Promise<void> {
  const [streams = 64, tokens = 512] = process.argv.slice(2).map(Number)

  /** User and system time of a process so far, in µs; its threads included. */
  const cpuMicros = (pid: number): number => {
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8")
      .replace(/^.*\) /, "")
      .split(" ")
    // In hundredths of a second.
    return (Number(fields[11]) + Number(fields[12])) * 10_000
  }

  const median = (values: ReadonlyArray<number>) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!

  const settings = ["--executor", "sim", "--time-scale", "0", "--max-num-seqs", String(streams), "--log-format", "json"]
  await using server = await ServeProcess.start(...settings, "--log-level", "warn")
  const client = new StreamClient(server.url)
  const body = (maxTokens: number, i = 0) => ({
    prompt: [5, 6, 7, 300 + (i % 3000)],
    max_tokens: maxTokens,
    ignore_eos: true,
    stream: true,
  })

  for (let i = 0; i < 3; i++) await Promise.all(Array.from({ length: streams }, () => client.stream(body(64))))

  const rounds = 3
  const stream = async (to: ServeProcess, through: StreamClient, count: number) => {
    const cpuBefore = cpuMicros(to.pid)
    const start = performance.now()
    let events = 0
    for (let round = 0; round < rounds; round++) {
      const answers = await Promise.all(Array.from({ length: streams }, (_, i) => through.stream(body(count, i))))
      events += answers.reduce((sum, { chunks }) => sum + chunks, 0)
    }
    const streamed = rounds * streams * count
    const micros = (cpuMicros(to.pid) - cpuBefore) / streamed
    const rate = streamed / ((performance.now() - start) / 1000)
    return `${micros.toFixed(1)} µs a token, ${rate.toFixed(0)} tokens/s, ${(streamed / events).toFixed(1)} tokens an event`
  }
  console.log(
    `${streams} streams of ${tokens} tokens: ${await stream(server, client, tokens)} (bars: 20 µs, 3,000 tokens/s)`,
  )

  const file = join(tmpdir(), `uniprefill-steps-${process.pid}.json`)
  writeFileSync(file, JSON.stringify(stepsOf(20)))
  {
    const pacing = ["--executor", "sim", "--cost-model", file, "--max-num-seqs", String(streams)]
    await using paced = await ServeProcess.start(...pacing, "--log-level", "warn")
    const through = new StreamClient(paced.url)
    // Long enough that its code is compiled.
    await Promise.all(Array.from({ length: streams }, () => through.stream(body(400))))
    console.log(`the same with a step every 20 ms: ${await stream(paced, through, 200)}`)
    through.close()
  }
  rmSync(file)

  const before = cpuMicros(server.pid)
  const began = performance.now()
  const requests = 2000
  let next = 0
  const worker = async () => {
    while (next < requests) await client.post("/v1/completions", { ...body(1, next++), stream: false })
  }
  await Promise.all(Array.from({ length: 8 }, worker))
  const cpu = cpuMicros(server.pid) - before
  const seconds = (performance.now() - began) / 1000
  console.log(
    `requests of 1 token: ${(cpu / requests / 1000).toFixed(3)} ms of the server's processor time each, ` +
      `${(requests / seconds).toFixed(0)} requests/s (bar: 1 ms)`,
  )

  const ttft = async (count: number) => {
    const times: Array<number> = []
    for (let i = 0; i < count; i++) times.push((await client.stream(body(4, i))).firstMs)
    return { median: median(times), worst: Math.max(...times) }
  }
  const idle = await ttft(200)
  // By a process of its own, so that what it does to its own event loop is not measured.
  const flood = spawn(process.execPath, [...process.execArgv, fileURLToPath(import.meta.url), "flood", server.url], {
    stdio: ["pipe", "pipe", "inherit"],
  })
  await new Promise((resolve) => flood.stdout.once("data", resolve))
  const beside = await ttft(100)
  let sent = ""
  flood.stdout.on("data", (chunk) => (sent += chunk))
  flood.stdin.end()
  await new Promise((resolve) => flood.once("close", resolve))
  console.log(
    `time to the first token of a short prompt: ${idle.median.toFixed(1)} ms idle, ${beside.median.toFixed(1)} ms beside ` +
      `${sent.trim()} bodies of 10 to 15 MB (bar: twice); worst ${idle.worst.toFixed(0)} and ${beside.worst.toFixed(0)} ms`,
  )
  client.close()
}
