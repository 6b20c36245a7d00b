import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { readScenario } from "@uniprefill/sim/ScenarioSource"
import { scenarioFields } from "@uniprefill/simulator/scenario/ScenarioFields"
import { Option } from "effect"
import { afterAll, describe, expect, it } from "vitest"
import { simHere } from "./SimProcess.ts"

const sim = (args: ReadonlyArray<string>) => simHere(tmpdir(), args)

describe("a wrong command line", () => {
  it.each([
    [["rnu"], "", 'Unknown subcommand "rnu"'],
    [["run", "--modle", "x"], " run", "Unrecognized flag: --modle"],
    [["run", "--model"], " run", "Missing value for flag --model"],
    [["run", "a", "b"], " run", 'Unexpected positional argument: "b"'],
    [["explain"], " explain", "Missing required flag: --step"],
    [["replay"], " replay", "Missing required argument: recording"],
    [["fit"], " fit", "Missing required flag: --recorded"],
    [["--wizard"], "", "Unrecognized flag: --wizard"],
  ])("%j gets the error and the way to help, and not the help", async (args, command, error) => {
    const { code, out, err } = await sim(args)
    expect([code, out]).toEqual([2, ""])
    const lines = err.trimEnd().split("\n")
    expect(lines[0]).toContain(`uniprefill-sim: ${error}`)
    expect(lines.at(-1)).toBe(`See uniprefill-sim${command} --help`)
    expect(lines.length).toBeLessThan(7)
  })
})

describe("a field's flag", () => {
  it("is named where its value is at fault", () => {
    for (const { path, flag, defaultValue, choices } of scenarioFields) {
      if (typeof defaultValue !== "number" && choices === null) continue
      const flags = { [path]: Option.some("wrong") }
      expect(() => readScenario(Option.none(), flags)).toThrow(new RegExp(`^--${flag}: .*"wrong"`))
    }
  })

  it("says which values it may have, where these are a few", async () => {
    const { out } = await sim(["run", "--help"])
    const chosen = scenarioFields.flatMap(({ flag, choices }) => (choices === null ? [] : [{ flag, choices }]))
    expect(chosen.map(({ flag }) => flag)).toEqual(["router", "trace-format", "arrivals", "steps-in-flight", "link"])
    const lines = out.split("\n")
    for (const { flag, choices } of chosen) {
      const line = lines.find((one) => one.trim().startsWith(`--${flag} `))
      expect(line).toContain(`(choices: ${choices.join(", ")})`)
    }
  })
})

describe("a policy's module", () => {
  const folder = mkdtempSync(join(tmpdir(), "uniprefill-policy-"))
  const beside = join(folder, "elsewhere")
  mkdirSync(beside)
  writeFileSync(
    join(folder, "mine.mjs"),
    'export default { name: "mine", order: (queue) => queue.map(({ id }) => id) }',
  )
  writeFileSync(join(folder, "empty.mjs"), "export const nothing = 1")
  writeFileSync(join(beside, "a.scenario.yaml"), "workload: { requests: 3, promptTokens: 900, outputTokens: 2 }\n")
  afterAll(() => rmSync(folder, { recursive: true, force: true }))

  it("is looked up beside the scenario, then where the command runs, as traces are", async () => {
    const { code, err } = await simHere(folder, ["run", "elsewhere/a.scenario.yaml", "--policy", "./mine.mjs"])
    expect([code, err]).toEqual([0, ""])
  })

  it.each([
    ["./nope.ts", "policy ./nope.ts: no such file"],
    ["empty.mjs", "policy empty.mjs: the default export is missing, expected an object with a name"],
  ])("%s is named as it was given", async (name, message) => {
    const { code, err } = await simHere(folder, ["run", "--policy", name])
    expect([code, err]).toEqual([2, `uniprefill-sim: ${message}\n`])
  })
})

/** Indented blocks below a paragraph that ends with a command, and the command. */
const shownOutputs = (page: string) => {
  const lines = readFileSync(fileURLToPath(new URL(`../../../docs/${page}`, import.meta.url)), "utf8").split("\n")
  return lines.flatMap((line, i) => {
    if (!line.startsWith("    ") || lines[i - 1] !== "" || lines[i - 2]!.startsWith("    ")) return []
    const end = lines.findIndex((one, k) => k > i && one !== "" && !one.startsWith("    "))
    const command = /`uniprefill-sim ([^`]+)`[^`]*$/.exec(lines.slice(0, i).join(" "))?.[1]
    const shown = lines.slice(i, end).map((one) => one.slice(4))
    return command === undefined || !/[.:]$/.test(lines[i - 2]!) ? [] : [{ command, shown }]
  })
}

describe("docs/simulator.md", () => {
  const examples = shownOutputs("simulator.md")

  it("shows what two commands print", () => {
    expect(examples.map(({ command }) => command.split(" ")[0])).toEqual(["explain", "placement"])
  })

  it.each(examples)("shows what $command prints, but for lines left out", async ({ command, shown }) => {
    const { code, out } = await sim(command.split(" "))
    expect(code).toBe(0)
    const parts = shown.join("\n").split(/\n *…\n/)
    let at = 0
    for (const part of parts) {
      expect(out.slice(at)).toContain(part.trimEnd())
      at = out.indexOf(part.trimEnd(), at) + part.trimEnd().length
    }
  })
})
