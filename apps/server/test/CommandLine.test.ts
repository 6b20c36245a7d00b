import { spawn } from "node:child_process"
import { createServer } from "node:net"
import { fileURLToPath } from "node:url"
import { describe, expect, it, test } from "vitest"

const main = fileURLToPath(new URL("../src/main.ts", import.meta.url))
const shim = fileURLToPath(new URL("../bin/uniprefill.mjs", import.meta.url))

interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

const run = (args: ReadonlyArray<string>, environment: Record<string, string> = {}): Promise<Ended> =>
  new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, {
      env: { ...process.env, NO_COLOR: "1", ...environment },
      stdio: ["pipe", "pipe", "pipe"],
    })
    let stdout = ""
    let stderr = ""
    child.stdout.on("data", (chunk) => (stdout += chunk))
    child.stderr.on("data", (chunk) => (stderr += chunk))
    child.stdin.end()
    child.on("error", reject)
    child.on("close", (code) => resolve({ code, stdout, stderr }))
  })

const uniprefill = (...args: ReadonlyArray<string>) => run(["--conditions=source", main, ...args])

describe("help", () => {
  it("is on stdout, names every command, and is what no command at all gets", async () => {
    const [asked, none] = await Promise.all([uniprefill("--help"), uniprefill()])
    expect(asked).toMatchObject({ code: 0, stderr: "" })
    for (const command of ["serve", "generate", "demo", "accuracy", "calibrate", "inspect", "bench", "synth-model"])
      expect(asked.stdout).toMatch(new RegExp(`^  ${command} `, "m"))
    expect(none).toMatchObject({ code: 0, stdout: asked.stdout })
  })

  it("of a command has every option with its default, and examples", async () => {
    const { stdout } = await uniprefill("serve", "--help")
    expect(stdout).toMatch(/--port PORT .*\(default: 8000\)/)
    expect(stdout).toMatch(/--host ADDRESS .*\(default: 127\.0\.0\.1\)/)
    expect(stdout).toMatch(/--kv-memory SIZE .*\(default: 1GiB\)/)
    expect(stdout).toContain("UNIPREFILL_MAX_MODEL_LEN")
    for (const path of ["/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages"])
      expect(stdout).toContain(path)
    expect(stdout).toContain("uniprefill serve --drop-schedule off")
  })
})

describe("wrong usage ends with 2 and one line that says what to do", () => {
  test.each([
    [
      ["serve", "--nope"],
      "uniprefill: Unrecognized flag: --nope in command uniprefill serve\nSee uniprefill serve --help\n",
    ],
    [["frobnicate"], 'uniprefill: Unknown subcommand "frobnicate" for "uniprefill"\nSee uniprefill --help\n'],
    [["serve", "--port", "http"], 'uniprefill: --port: expected an integer between 0 and 65535, got "http"\n'],
    [["generate"], "uniprefill: the prompt is empty\n"],
    [["inspect", "--prompt", "/no/such/file"], "uniprefill: --prompt /no/such/file: no such file or directory\n"],
    [["generate", "x", "--policy", "./no.ts", "--executor", "sim"], "uniprefill: --policy ./no.ts: no such file\n"],
    [
      ["generate", "x", "--max-model-len", "100000"],
      "uniprefill: --max-model-len: the model takes at most 32768 tokens, got 100000\n",
    ],
    [
      ["generate", "x", "--prefill-sparsity", "0.9", "--executor", "sim"],
      "uniprefill: --prefill-sparsity: --executor sim computes no attention\n",
    ],
    [
      ["generate", "x", "--prefill-sparsity", "0.9", "--page-size", "64"],
      "uniprefill: --prefill-sparsity: pages are of a multiple of 128 rows, --page-size is 64\n",
    ],
  ])("%j", async (args, stderr) => {
    expect(await uniprefill(...args)).toEqual({ code: 2, stdout: "", stderr })
  })
})

describe("what cannot be done ends with 1 and one line that says why", () => {
  it("a model that is not on disk", async () => {
    const { code, stderr } = await uniprefill("generate", "x", "--model", "/no/such/folder")
    expect({ code, stderr }).toEqual({ code: 1, stderr: "uniprefill: /no/such/folder: no such directory\n" })
  })

  it("a hub id is answered with how to download it", async () => {
    const { code, stderr } = await uniprefill("generate", "x", "--model", "meta-llama/Llama-3.1-8B")
    expect(code).toBe(1)
    expect(stderr).toContain("hf download meta-llama/Llama-3.1-8B --local-dir DIR")
  })

  it("a port that is taken, before the model is loaded", async () => {
    const taken = createServer()
    await new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve))
    const { port } = taken.address() as { readonly port: number }
    const { code, stdout, stderr } = await uniprefill("serve", "--port", String(port), "--model", "/no/such/folder")
    taken.close()
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" })
    expect(stderr).toBe(
      `uniprefill: 127.0.0.1:${port} is in use: stop what listens there, or give another port with --port (0 takes any free one)\n`,
    )
  })

  it("an address that is not this machine's", async () => {
    const { code, stderr } = await uniprefill("serve", "--port", "0", "--host", "192.0.2.1")
    expect(code).toBe(1)
    expect(stderr).toContain("this machine has no address 192.0.2.1")
  })
})

test("an answer comes without log lines, unless they are asked for", async () => {
  const ask = ["generate", "Once upon a time", "--max-tokens", "4", "--executor", "sim", "--time-scale", "0"]
  const [plain, logged] = await Promise.all([uniprefill(...ask), uniprefill(...ask, "--log-level", "info")])
  expect(plain).toMatchObject({ code: 0, stderr: "" })
  expect(plain.stdout.trim()).not.toBe("")
  expect(logged).toMatchObject({ code: 0, stdout: plain.stdout })
  expect(logged.stderr.match(/model read/g)).toHaveLength(1)
})

test("the entry script passes arguments and the exit code on", async () => {
  const [version, wrong] = await Promise.all([run([shim, "--version"]), run([shim, "serve", "--port", "http"])])
  expect(version).toMatchObject({ code: 0, stdout: "uniprefill v0.1.0\n" })
  expect(wrong.code).toBe(2)
})

describe("bench", () => {
  it("prints times to the first token of both kinds, and says when what is kept is synthetic", async () => {
    const args = ["--executor", "cpu", "--input-len", "1024", "--num-iters", "1", "--json"]
    const { code, stdout } = await uniprefill("bench", "prefill", ...args, "--keep-profile", "0.75,0.5,0.375")
    expect(code).toBe(0)
    const { keeps, results } = JSON.parse(stdout) as { keeps: string; results: ReadonlyArray<Record<string, unknown>> }
    expect(keeps).toBe("synthetic")
    expect(results).toHaveLength(1)
    expect(results[0]).toMatchObject({ input_len: 1024, kept: [1, 0.75, 0.5, 0.375] })
    expect(results[0]!["median_ttft_ms"]).toBeGreaterThan(0)
    expect(results[0]!["median_ttft_ms_uniprefill"]).toBeGreaterThan(0)
  })

  it("prints times between tokens of requests that decode together", async () => {
    const args = ["--executor", "cpu", "--num-prompts", "2", "--input-len", "70", "--output-len", "12", "--json"]
    const { code, stdout } = await uniprefill("bench", "decode", ...args)
    expect(code).toBe(0)
    const row = JSON.parse(stdout) as Record<string, number>
    expect(row).toMatchObject({ num_prompts: 2, input_len: 70, output_len: 12 })
    expect(row["p99_itl_ms"]).toBeGreaterThanOrEqual(row["median_itl_ms"]!)
  })

  it.each([
    [["--keep-profile", "0.5"], "--keep-profile: one share for each of the 3 drop layers, got 1"],
    [["--input-len", "many"], '--input-len: "many" is not one'],
  ])("refuses %j", async (args, message) => {
    const { code, stderr } = await uniprefill("bench", "prefill", "--executor", "cpu", ...args)
    expect({ code, stderr }).toEqual({ code: 2, stderr: `uniprefill: ${message}\n` })
  })
})
