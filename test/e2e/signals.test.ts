import { type ChildProcess, spawn } from "node:child_process"
import { accessSync, constants, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { delimiter, join } from "node:path"
import { tmpdir } from "node:os"
import { fileURLToPath } from "node:url"
import { afterAll, afterEach, describe, expect, it } from "vitest"
import { ServeProcess } from "./ServeProcess.ts"
import { stepsOf } from "./StepsOf.ts"
import { StreamClient } from "./StreamClient.ts"

const folder = mkdtempSync(join(tmpdir(), "uniprefill-signals-"))
afterAll(() => rmSync(folder, { recursive: true }))

const endless = { prompt: "Once upon", max_tokens: 30_000, ignore_eos: true }

/** A file that says that steps take so many ms. */
const stepsFile = (millis: number): string => {
  const file = join(folder, `steps-${millis}.json`)
  writeFileSync(file, JSON.stringify(stepsOf(millis)))
  return file
}

const until = async (condition: () => Promise<boolean>) => {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 20))
}

const running = async (url: string) => {
  const text = await (await fetch(`${url}/metrics`)).text()
  return Number(/^vllm:num_requests_running\{.*\} (.*)$/m.exec(text)![1])
}

describe("at the drain's deadline", () => {
  it("streams and waiting clients are told, and the process ends", async () => {
    const settings = ["--executor", "sim", "--cost-model", stepsFile(20), "--drain-seconds", "2"]
    await using server = await ServeProcess.start(...settings)
    const client = new StreamClient(server.url)
    const streamed = client.stream({ ...endless, stream: true })
    const whole = fetch(`${server.url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(endless),
    })
    await until(async () => (await running(server.url)) === 2)
    const began = performance.now()
    server.signal("SIGTERM")
    const { text, finish, error } = await streamed
    expect({ finish, error, some: text.length > 0 }).toEqual({ finish: "abort", error: null, some: true })
    const response = await whole
    expect([response.status, response.headers.get("retry-after")]).toEqual([503, "5"])
    expect(((await response.json()) as any).error.message).toContain("shutting down")
    client.close()
    expect(await server.ended).toBe(0)
    const seconds = (performance.now() - began) / 1000
    expect(seconds).toBeGreaterThan(1.9)
    // An idle connection would be kept for 75 s, and the answers take ten minutes.
    expect(seconds).toBeLessThan(60)
  })

  it("none is waited for where clients leave before, and new requests are refused meanwhile", async () => {
    const settings = ["--executor", "sim", "--cost-model", stepsFile(20), "--drain-seconds", "3600"]
    await using server = await ServeProcess.start(...settings)
    const client = new StreamClient(server.url)
    const streamed = client.stream({ ...endless, stream: true })
    await until(async () => (await running(server.url)) === 1)
    server.signal("SIGTERM")
    await until(async () => (await fetch(`${server.url}/ready`)).status === 503)
    const refused = await client.post("/v1/completions", endless)
    expect(refused.status).toBe(503)
    client.close()
    expect((await streamed).left).toBe(true)
    expect(await server.ended).toBe(0)
  })

  it("a hung executor is named by /ready, and holds up neither clients nor the end", async () => {
    const settings = [
      "--executor",
      "sim",
      "--cost-model",
      stepsFile(3_600_000),
      "--drain-seconds",
      "1",
      "--stall-seconds",
      "1",
    ]
    await using server = await ServeProcess.start(...settings)
    const client = new StreamClient(server.url)
    const streamed = client.stream({ ...endless, stream: true })
    await until(async () => (await fetch(`${server.url}/ready`)).status === 503)
    const said = (await (await fetch(`${server.url}/ready`)).json()) as any
    expect(said.error.message).toMatch(/^stalled: no step has finished for \d+ s, step 1 is running/)
    expect((await fetch(`${server.url}/health`)).status).toBe(200)
    server.signal("SIGTERM")
    expect((await streamed).finish).toBe("abort")
    client.close()
    expect(await server.ended).toBe(0)
  })
})

describe("an executor that fails", () => {
  it("ends its step's streams with an error event, and serves on; again and again, /ready says so", async () => {
    await using server = await ServeProcess.start(
      "--executor",
      "sim",
      "--time-scale",
      "0",
      "--sim-failure-rate",
      "0.02",
    )
    const client = new StreamClient(server.url)
    const answers = []
    for (let i = 0; i < 60; i++)
      answers.push(await client.stream({ prompt: [5, 6, i + 9], max_tokens: 20, stream: true, ignore_eos: true }))
    const failed = answers.filter(({ error }) => error !== null)
    expect(failed.length).toBeGreaterThan(3)
    expect(answers.filter(({ finish }) => finish === "length").length).toBeGreaterThan(10)
    for (const { error } of failed) expect(error).toContain("a simulated failure")
    client.close()
    await using broken = await ServeProcess.start("--executor", "sim", "--time-scale", "0", "--sim-failure-rate", "1")
    const other = new StreamClient(broken.url)
    for (let i = 0; i < 3; i++)
      expect((await other.stream({ ...endless, stream: true })).error).toContain("a simulated failure")
    other.close()
    const ready = await fetch(`${broken.url}/ready`)
    expect([ready.status, ((await ready.json()) as any).error.message]).toEqual([
      503,
      expect.stringContaining("unhealthy: 3 steps failed"),
    ])
  })
})

/** The oldest Node on the path: the entry script has to find a newer one for the program. */
const oldNode = (): string => {
  const found = (process.env.PATH ?? "").split(delimiter).map((directory) => join(directory, "node"))
  const usable = [...found, process.env.npm_node_execpath ?? ""].filter((file) => {
    try {
      accessSync(file, constants.X_OK)
      return !file.includes("node_modules")
    } catch {
      return false
    }
  })
  return usable[0] ?? process.execPath
}

describe("signals to the entry script, which starts the program with another Node", () => {
  const children: Array<ChildProcess> = []
  afterEach(() => {
    for (const child of children.splice(0)) child.kill("SIGKILL")
  })

  const start = async () => {
    const shim = fileURLToPath(new URL("../../apps/server/bin/uniprefill.mjs", import.meta.url))
    const args = [
      shim,
      "serve",
      "--port",
      "0",
      "--executor",
      "sim",
      "--cost-model",
      stepsFile(20),
      "--drain-seconds",
      "3600",
    ]
    // Without Node's own choice of conditions the program is always a process of its own.
    const child = spawn(oldNode(), args, {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, NODE_OPTIONS: "" },
    })
    children.push(child)
    let stderr = ""
    child.stderr.on("data", (chunk) => (stderr += chunk))
    const url = await new Promise<string>((resolve, reject) => {
      let stdout = ""
      child.stdout.on("data", (chunk) => {
        stdout += chunk
        const said = /at (http:\S+)\n[^]*curl/.exec(stdout)?.[1]
        if (said !== undefined) resolve(said)
      })
      child.on("exit", (code) => reject(new Error(`ended with ${code}: ${stderr}`)))
    })
    const ended = new Promise<number | null>((resolve) => child.on("exit", resolve))
    return { child, url, ended, stderr: () => stderr }
  }

  it("SIGINT drains", async () => {
    const { child, url, ended, stderr } = await start()
    const client = new StreamClient(url)
    const streamed = client.stream({ ...endless, max_tokens: 300, stream: true })
    await until(async () => (await running(url)) === 1)
    child.kill("SIGINT")
    expect((await streamed).finish).toBe("length")
    client.close()
    expect(await ended).toBe(130)
    expect(stderr()).toContain("draining")
  })

  it("killed, it takes the program with it, so that the port is free", async () => {
    const { child, url } = await start()
    child.kill("SIGKILL")
    const answers = () =>
      fetch(url).then(
        () => true,
        () => false,
      )
    await until(async () => !(await answers()))
    expect(await answers()).toBe(false)
  })
})
