import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, Option, Result } from "effect"
import { stepBudgets } from "uniprefill/options/ModelOptions"
import { type GivenFlags, resolveOptions } from "uniprefill/options/Options"
import { serveOptions } from "uniprefill/options/ServeOptions"
import { afterAll, describe, expect, it, test } from "vitest"

const folder = mkdtempSync(join(tmpdir(), "uniprefill-options-"))
afterAll(() => rmSync(folder, { recursive: true }))

const write = (name: string, text: string) => {
  const file = join(folder, name)
  writeFileSync(file, text)
  return file
}

const names = Object.keys(serveOptions)

const resolve = (flags: Record<string, string>, environment: Record<string, string> = {}) => {
  const given = Object.fromEntries([...names, "config"].map((name) => [name, Option.fromUndefinedOr(flags[name])]))
  const effect = resolveOptions(serveOptions, given as GivenFlags<typeof serveOptions>, environment, names)
  return Effect.runPromise(Effect.result(effect))
}

const accepted = async (...args: Parameters<typeof resolve>) => Result.getOrThrow(await resolve(...args))
const refused = async (...args: Parameters<typeof resolve>) => {
  const result = await resolve(...args)
  if (Result.isSuccess(result)) throw new Error("accepted")
  return result.failure.message
}

describe("where a value comes from", () => {
  it("nowhere: the default", async () => {
    expect(await accepted({})).toMatchObject({
      host: "127.0.0.1",
      port: 8000,
      model: undefined,
      "api-key": [],
      "kv-memory": 1024 ** 3,
      "max-body": 16 * 1024 ** 2,
      "step-budget-ms": undefined,
      "tensor-parallel-size": 1,
    })
  })

  it("flag before environment before file", async () => {
    const config = write(
      "all.yaml",
      "# comments are welcome\nport: 1\nmax-num-seqs: 2\nthreads: 3\ntensor-parallel-size: 4\n",
    )
    const environment = { UNIPREFILL_PORT: "11", UNIPREFILL_MAX_NUM_SEQS: "12" }
    const values = await accepted({ config, port: "21" }, environment)
    expect(values).toMatchObject({ port: 21, "max-num-seqs": 12, threads: 3, "tensor-parallel-size": 4 })
  })

  it("the file may be named by the environment, and an empty variable is none", async () => {
    const config = write("env.json", JSON.stringify({ port: 1 }))
    expect(await accepted({}, { UNIPREFILL_CONFIG: config, UNIPREFILL_PORT: "" })).toMatchObject({ port: 1 })
  })

  it("a list in the file is the list that the flag writes with commas", async () => {
    const config = write("list.json", JSON.stringify({ "api-key": ["a", "b"] }))
    expect((await accepted({ config }))["api-key"]).toEqual(["a", "b"])
    expect((await accepted({ "api-key": "a, b" }))["api-key"]).toEqual(["a", "b"])
  })
})

describe("a wrong value is refused with its source", () => {
  test.each([
    [{ port: "70000" }, {}, '--port: expected an integer between 0 and 65535, got "70000"'],
    [{ port: "" }, {}, '--port: expected an integer between 0 and 65535, got ""'],
    [{ "page-size": "100" }, {}, '--page-size: expected a multiple of 64 between 64 and 4096, got "100"'],
    [{ threads: "1.5" }, {}, '--threads: expected an integer between 1 and 1024, got "1.5"'],
    [{}, { UNIPREFILL_THREADS: "x" }, 'UNIPREFILL_THREADS: expected an integer between 1 and 1024, got "x"'],
    [{ "tensor-parallel-size": "0" }, {}, '--tensor-parallel-size: expected an integer between 1 and 64, got "0"'],
    [{ executor: "tpu" }, {}, '--executor: expected one of auto, cuda, cpu, sim, got "tpu"'],
    [
      { "kv-memory": "2 parsecs" },
      {},
      '--kv-memory: expected bytes with a unit, such as 512MiB or 2GiB, got "2 parsecs"',
    ],
    [{ "kv-memory": "12" }, {}, '--kv-memory: expected at least 1048576 bytes, got "12"'],
    [{ "api-key": "a,,b" }, {}, '--api-key: expected values separated by commas, got "a,,b"'],
  ])("%j %j", async (flags, environment, message) => {
    expect(await refused(flags, environment)).toBe(message)
  })

  it("naming the file and the key", async () => {
    const typed = write("typed.json", JSON.stringify({ port: "http" }))
    expect(await refused({ config: typed })).toBe(`${typed}: port: expected an integer between 0 and 65535, got "http"`)
    const unknown = write("unknown.json", JSON.stringify({ prot: 1 }))
    expect(await refused({ config: unknown })).toContain(
      `${unknown}: prot: there is no such option; options are model,`,
    )
    const nested = write("nested.json", JSON.stringify({ port: {} }))
    expect(await refused({ config: nested })).toBe(
      `${nested}: port: expected a string, a number, a boolean or a list of them`,
    )
    const broken = write("broken.yaml", "port: [1\nhost: x")
    expect(await refused({ config: broken })).toContain(`${broken}: is not YAML`)
    expect(await refused({ config: join(folder, "none.json") })).toContain("none.json: cannot be read: ENOENT")
  })
})

test.each([
  ["512MiB", 512 * 1024 ** 2],
  ["2GiB", 2 * 1024 ** 3],
  ["1.5GiB", 1.5 * 1024 ** 3],
  ["3GB", 3e9],
  ["2097152", 2 * 1024 ** 2],
])("%s is %d bytes", async (text, bytes) => {
  expect((await accepted({ "kv-memory": text }))["kv-memory"]).toBe(bytes)
})

it("a CUDA device's step budgets are those that the simulator studies, where nothing is said", () => {
  expect(stepBudgets(true)).toEqual({ stepBudgetMicros: 50_000, idleStepBudgetMicros: 500_000 })
  expect(stepBudgets(false)).toEqual({ stepBudgetMicros: 200_000, idleStepBudgetMicros: 1_000_000 })
  expect(stepBudgets(true, 800)).toEqual({ stepBudgetMicros: 800_000, idleStepBudgetMicros: 800_000 })
})
