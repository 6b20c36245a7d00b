import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { traceEventFault } from "@uniprefill/simulator/output/TraceEventCheck"
import { encodeLink } from "@uniprefill/studio/state/Link"
import { afterAll, describe, expect, it } from "vitest"
import { runSim } from "../../sim/test/SimProcess.ts"
import { openStudio } from "./OpenStudio.ts"

const folder = mkdtempSync(join(tmpdir(), "uniprefill-studio-files-"))
const { openPage } = await openStudio()

afterAll(() => rmSync(folder, { recursive: true, force: true }))

const file = (name: string, text: string): string => {
  const path = join(folder, name)
  writeFileSync(path, text)
  return path
}

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))

/** A scenario small enough to be waited for. */
const small = { seed: 3, workload: { requests: 60, ratePerSecond: 6, promptTokens: "lognormal:9000,1,60000" } }

describe("from a scenario to a comparison", () => {
  it("runs the built-in slice, looks at why a prompt waits, branches there with another policy, and exports both", async () => {
    const page = await openPage()
    await page.ready()
    const loaded = page.requests.length
    await page.run()
    await page.button("First step where a prompt waits").click()
    const why = page.page.locator("details", { hasText: "Why prompts wait" })
    await why
      .getByText(/^the step's (items start at segment|budget is spent)/)
      .first()
      .waitFor()
    await why.getByText("not admitted").first().waitFor()

    await page.slider.focus()
    await page.page.keyboard.press("b")
    await page.page.getByLabel("Prompts are served by").selectOption("shortest-prefill")
    await page.button(/Run on with policy shortest-prefill/).click()
    await page.page.getByText(/The first [\d,]+ steps are the same; they part at/).waitFor()
    expect(await page.page.locator(".runs .run").count()).toBe(2)

    // With an interval, once more than one seed was simulated.
    await page.button("3 seeds").click()
    await page.page.getByText("over 3 seeds").waitFor()
    const goodput = page.page.getByRole("row", { name: /^goodput/ })
    expect(await goodput.textContent()).toMatch(/ ± /)

    await page.page.getByTitle("Export", { exact: true }).click()
    const download = async (name: string) => {
      const button = page.page.getByRole("dialog").getByRole("button", { name, exact: true })
      const [started] = await Promise.all([page.page.waitForEvent("download"), button.click()])
      return readFileSync(await started.path(), "utf8")
    }
    const json = JSON.parse(await download("JSON")) as Record<string, unknown>
    expect(json).toMatchObject({ format: "uniprefill-simulation", complete: true, num_prompts: 600 })
    expect((await download("Requests as CSV")).trimEnd().split("\n")).toHaveLength(601)
    expect((await download("Steps as CSV")).split("\n").length).toBeGreaterThan(20_000)
    expect(traceEventFault(JSON.parse(await download("Perfetto")))).toBeNull()
    const scenario = JSON.parse(await download("Scenario")) as { changes: ReadonlyArray<unknown> }
    expect(scenario.changes).toEqual([{ atMicros: expect.any(Number), policy: "shortest-prefill" }])

    // The command line runs the branch too, with the same plans.
    const { out } = await runSim(folder, ["run", file("branch.scenario.json", JSON.stringify(scenario))])
    await page.page.keyboard.press("Escape")
    expect(out).toContain(await page.hash())
    expect(page.requests.slice(loaded)).toEqual([])
  })

  it("saves a picture of the timeline", async () => {
    const page = await openPage()
    await page.drop(file("small.scenario.json", JSON.stringify(small)))
    await page.run()
    await page.page.getByTitle("Export", { exact: true }).click()
    const [started] = await Promise.all([page.page.waitForEvent("download"), page.button("PNG").click()])
    const bytes = readFileSync(await started.path())
    expect(bytes.subarray(1, 4).toString()).toBe("PNG")
    expect(bytes.readUInt32BE(16)).toBeGreaterThan(500)
  })
})

describe("the same plans as the command line's", () => {
  it.each([
    ["a trace", ["--trace", "mooncake-conversation-slice", "--requests", "200"]],
    [
      "sessions on two replicas",
      ["--arrivals", "sessions", "--requests", "150", "--replicas", "2", "--router", "prefix-aware"],
    ],
    [
      "a token budget, faults",
      [
        "--requests",
        "80",
        "--policy",
        "token-budget",
        "--slow-steps",
        "0.05",
        "--cancelled",
        "0.1",
        "--model",
        "gemma-3-12b",
      ],
    ],
  ])("for %s, by their hash, from a file of --studio", async (_, flags) => {
    const saved = join(folder, "run.studio.json")
    const { code, out } = await runSim(folder, ["run", ...flags, "--studio", saved])
    expect(code).toBe(0)
    const page = await openPage()
    await page.ready()
    await page.drop(saved)
    await page.slider.waitFor()
    expect(out).toContain(await page.hash())
    await page.page.getByText("as the command line's").waitFor()
  })

  it("and the same state of any step as the command line's explain", async () => {
    const scenario = file("explain.scenario.json", JSON.stringify(small))
    const page = await openPage()
    await page.drop(scenario)
    await page.run()
    const count = Number(await page.slider.getAttribute("aria-valuemax"))
    // Not in order, so that time goes both ways.
    for (const step of [Math.floor(count * 0.7), 5, Math.floor(count * 0.3)]) {
      await page.goTo(step)
      const { out } = await runSim(folder, ["explain", scenario, "--step", String(step)])
      const why = out
        .split("\n")
        .flatMap((line) => /^ {2}request (\d+) (gets|waits|is not admitted):? (.*)$/.exec(line)?.[3] ?? [])
      const shown = await page.page.locator(".why .reason").allTextContents()
      expect(shown).toEqual(why)
      const micros = Number(/: ([\d.]+) ms on the device/.exec(out)![1])
      const figure = await page.page.locator(".step-head .figure").textContent()
      expect(Number.parseFloat(figure!)).toBeCloseTo(micros, 0)
    }
  })
})

describe("files", () => {
  it("takes a trace that is dropped on the page", async () => {
    const page = await openPage()
    await page.ready()
    const rows = readFileSync(here("../../../packages/simulator/traces/mooncake-conversation-slice.jsonl"), "utf8")
      .split("\n")
      .slice(0, 80)
    const text = rows.join("\n")
    // A real drop, not the file chooser.
    const transfer = await page.page.evaluateHandle(`(() => {
      const made = new DataTransfer()
      made.items.add(new File([${JSON.stringify(text)}], "mine.jsonl"))
      return made
    })()`)
    await page.page.dispatchEvent("main", "drop", { dataTransfer: transfer })
    await page.page.getByText("mine.jsonl: a trace of 80 requests").waitFor()
    expect(await page.page.getByLabel("Trace", { exact: true }).inputValue()).toBe("mine.jsonl")
    await page.run()
    await page.page.getByText("of 80 requests").first().waitFor()
  })

  it("replays a recording, step by step, with the blocks that were really kept", async () => {
    const page = await openPage()
    await page.ready()
    await page.drop(here("../../../test/golden/cpu.recording.jsonl.gz"))
    await page.slider.waitFor()
    await page.goTo(700)
    // The longest prompt first: it drops.
    await page.page.getByLabel("Sort requests by").selectOption("prompt")
    await page.slider.focus()
    await page.page.keyboard.press("z")
    await page.page.keyboard.press("ArrowDown")
    await page.page.getByText("recorded", { exact: true }).waitFor()
    await page.page.getByRole("img", { name: /^Rows kept over the prompt: segment 0 / }).waitFor()
    await page.button("Report").click()
    expect(await page.page.locator(".provenance").textContent()).toContain("recorded: the model's own selections")
  })

  it.each([
    [
      "bad.jsonl",
      '{"timestamp":0,"input_length":9,"output_length":1,"hash_ids":[1]}\n{"timestamp":1,"input_length":-4}',
      "bad.jsonl:2: input_length is -4",
    ],
    ["bad.json", '{"engine":{"slots":"many"}}', "engine.slots: bad.json: "],
    ["cut.recording.jsonl", '{"format":"uniprefill-recording","version":1}', "cut.recording.jsonl line 1"],
    ["other.json", '{"format":"uniprefill-studio","version":2}', "version 2 of a studio file"],
  ])("says where %s is wrong, and keeps the scenario at hand", async (name, text, message) => {
    const page = await openPage()
    await page.ready()
    const title = page.page.getByLabel("Name", { exact: true })
    await title.fill("my own")
    await title.press("Enter")
    await page.drop(file(name, text))
    await page.page.getByRole("alert").getByText(message).waitFor()
    expect(await title.inputValue()).toBe("my own")
    await page.ready()
  })

  it("can run nothing while a file is being read", async () => {
    const page = await openPage()
    await page.ready()
    // Looked at before the worker's answer can come.
    const isDisabled = await page.page.evaluate<boolean>(`(async () => {
      const input = document.querySelector("[data-testid=file-input]")
      const files = new DataTransfer()
      files.items.add(new File([${JSON.stringify(JSON.stringify(small))}], "small.scenario.json"))
      input.files = files.files
      input.dispatchEvent(new Event("change", { bubbles: true }))
      for (let i = 0; i < 10; i++) await Promise.resolve()
      return document.querySelector(".run-box button").disabled
    })()`)
    expect(isDisabled).toBe(true)
    await page.page.getByText(/^small\.scenario\.json: /).waitFor()
    await page.run()
  })

  it("puts a scenario aside that another one replaces, and brings it back", async () => {
    const page = await openPage()
    await page.ready()
    const title = page.page.getByLabel("Name", { exact: true })
    await title.fill("my own")
    await title.press("Enter")
    await page.drop(file("small.scenario.json", JSON.stringify({ ...small, name: "theirs" })))
    await expect.poll(() => title.inputValue()).toBe("theirs")
    await page.button("Bring my scenario back").click()
    await expect.poll(() => title.inputValue()).toBe("my own")
  })
})

describe("what goes wrong", () => {
  it("stands at its field, and nothing runs until it is mended", async () => {
    const page = await openPage()
    await page.ready()
    const field = page.page.getByLabel("Policy", { exact: true })
    await field.fill("slowest")
    await field.press("Enter")
    const fault = page.page.locator(".field", { has: field }).getByRole("alert")
    expect(await fault.textContent()).toContain('there is no "slowest"')
    expect(await page.button("Run").isDisabled()).toBe(true)
    await field.fill("fcfs")
    await field.press("Enter")
    await page.ready()
    expect(await page.button("Run").isEnabled()).toBe(true)
  })

  it("a model that does not fit is said with the numbers", async () => {
    const page = await openPage()
    await page.ready()
    const field = page.page.getByLabel("Model", { exact: true })
    await field.fill("llama-3.1-70b")
    await field.press("Enter")
    const fault = page.page.getByRole("alert").getByText("the model does not fit")
    await expect.poll(() => fault.textContent()).toMatch(/weights [\d.]+ GB/)
    expect(await page.button("Run").isDisabled()).toBe(true)
  })

  it("a branch that cannot run leaves the run that it parts from alone", async () => {
    const page = await openPage()
    await page.drop(file("small.scenario.json", JSON.stringify(small)))
    await page.run()
    await page.goTo(40)
    await page.button("Branch here").click()
    await page.page.getByText("A client gives up").click()
    await page.page.getByLabel("Number of the request").fill("99999")
    await page.button(/Run on with abort request 99999/).click()
    await page.page.getByText("changes.0.abort: there are 60 requests, not 99999").waitFor()
    await page.button("Close it").click()
    await page.slider.waitFor()
    await page.goTo(41)
    expect(await page.slider.getAttribute("aria-valuenow")).toBe("41")
  })
})

describe("a link", () => {
  it("opens the scenario that it holds, runs it and goes to its step", async () => {
    const page = await openPage({}, `#${await encodeLink({ scenario: small, step: 99 })}`)
    await page.slider.waitFor()
    await expect.poll(() => page.slider.getAttribute("aria-valuenow")).toBe("100")
    await page.page.locator(".step-head").getByText("Step 100").waitFor()
  })

  it("is made of a branch with all that it changes", async () => {
    const changed = { ...small, changes: [{ atMicros: 2_000_000, policy: "shortest-prefill" }] }
    const page = await openPage({}, `#${await encodeLink({ scenario: changed, step: null })}`)
    await page.slider.waitFor()
    await page.page.getByTitle("Export", { exact: true }).click()
    await page.button("Link").click()
    const link = await page.page.getByLabel("Link", { exact: true }).inputValue()
    const other = await openPage({}, new URL(link).hash)
    await other.slider.waitFor()
    await page.page.keyboard.press("Escape")
    expect(await other.hash()).toBe(await page.hash())
  })

  it.each([
    ["#v2.AAAA", "made by another version of this page"],
    ["#v1.AAAA", "the link is damaged"],
    ["#nothing", "no link of this page"],
  ])("%s that cannot be followed is said, and the scenario at hand stays", async (hash, message) => {
    const page = await openPage({}, hash)
    await page.page.getByRole("alert").getByText(message).waitFor()
    await page.ready()
    expect(await page.page.getByLabel("Trace", { exact: true }).inputValue()).toBe("mooncake-conversation-slice")
  })

  it("that names a file asks for it", async () => {
    const scenario = { workload: { trace: "theirs.jsonl" } }
    const page = await openPage({}, `#${await encodeLink({ scenario, step: null })}`)
    await page.page.getByText("The link names theirs.jsonl: drop the file here").waitFor()
    expect(await page.page.getByLabel("Trace", { exact: true }).inputValue()).toBe("theirs.jsonl")
  })
})
