import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, describe, expect, it } from "vitest"
import { StudioPage } from "./StudioBrowser.ts"
import { openStudio } from "./OpenStudio.ts"
import { plant, planting } from "./Planted.ts"

const folder = mkdtempSync(join(tmpdir(), "uniprefill-studio-failures-"))
const { studio, openPage } = await openStudio()

afterAll(() => rmSync(folder, { recursive: true, force: true }))

const small = join(folder, "small.scenario.json")
writeFileSync(
  small,
  JSON.stringify({ name: "small", workload: { requests: 60, ratePerSecond: 6, promptTokens: 9000 } }),
)

/** Does something in place of the first message about how far the run has come: by a fast clock, so that one comes before its end. */
const midway = (act: string) => `{
  let now = 0
  performance.now = () => (now += 50)
  const post = self.postMessage.bind(self)
  let count = 0
  self.postMessage = (message, ...rest) => {
    if (message.tag === "progress" && ++count === 1) { ${act} }
    else post(message, ...rest)
  }
}`

/** Does something when a command comes. */
const onCommand = (command: string, act: string) =>
  `self.addEventListener("message", (event) => { if (event.data.command?.do === "${command}") { ${act} } });`

/** Ends the worker without a word, in place of an answer. */
const ended = "event.stopImmediatePropagation(); setTimeout(() => self.close(), 300)"

/** A page with a run of its own, and a scenario that was made by hand. */
const openMade = async () => {
  const page = await openPage({}, "", planting)
  await page.drop(small)
  await page.run()
  await page.button("Scenario").click()
  const title = page.page.getByLabel("Name", { exact: true })
  await title.fill("my own")
  await title.press("Enter")
  await page.page.getByLabel("Requests", { exact: true }).fill("700")
  await page.page.getByLabel("Requests", { exact: true }).press("Enter")
  await page.ready()
  return { page, title }
}

const defect = "a defect of this page: thrown at a step"

describe("a worker that fails in the middle of a run", () => {
  it.each([
    ["throws at a step", midway("throw new Error('thrown at a step')"), defect],
    [
      "throws outside of what is asked of it",
      midway("setTimeout(() => { throw new Error('out of memory') })"),
      /^the worker failed: .*out of memory/,
    ],
    ["is ended by the browser", midway("self.close()"), "the browser ended the worker: its memory may be full"],
    ["sends garbage", midway("post({ ...message, progress: 'far' })"), "the worker sent what cannot be read"],
    [
      "sends a result that is none",
      onCommand(
        "run",
        "event.stopImmediatePropagation(); self.postMessage({ id: event.data.id, tag: 'done', value: 5 })",
      ),
      "the worker sent what is no run",
    ],
    ["cannot be started", "throw new Error('no such instruction');", /^the worker failed: .*no such instruction/],
  ])("%s: that is said, nothing is lost, and it can be run again", async (_, script, message) => {
    const { page, title } = await openMade()
    await plant(page, script)
    await page.button("Run").click()
    await page.page.getByRole("heading", { name: "Run B could not be made" }).waitFor()
    await page.page.getByRole("alert").getByText(message).waitFor()
    // The scenario is as it was made, and the run before is still looked at.
    await page.button("To the scenario").click()
    expect(await title.inputValue()).toBe("my own")
    expect(await page.page.getByLabel("Requests", { exact: true }).inputValue()).toBe("700")
    await page.page.locator(".run", { hasText: "small" }).getByRole("button").first().click()
    await page.button("Timeline").click()
    await page.goTo(30)
    await page.page.locator(".step-head").getByText("Step 30").waitFor()
    // Once the cause is gone both ways to run work.
    await plant(page, "")
    await page.page.locator(".run", { hasText: "failed" }).getByRole("button").first().click()
    await page.button("Run it again").click()
    await page.slider.waitFor()
    expect(await page.page.locator(".run").count()).toBe(2)
    expect(await page.page.locator(".run.on").textContent()).toContain("my own")
    await page.goTo(31)
    await page.button("Scenario").click()
    await page.run()
    expect(await page.page.locator(".run").count()).toBe(3)
  })
})

describe("a worker that fails later", () => {
  it("while a step is looked at: the run can be made again, with the same plans", async () => {
    const page = await openPage({}, "", planting)
    await plant(page, onCommand("look", `if (event.data.command.step === 41) { ${ended} }`))
    await page.drop(small)
    await page.run()
    await page.goTo(40)
    await page.page.locator(".step-head").getByText("Step 40").waitFor()
    const hash = await page.hash()
    await page.button("Timeline").click()
    await page.page.getByLabel("Step number").fill("42")
    await page.page.getByLabel("Step number").press("Enter")
    await page.page.getByRole("alert").getByText("the browser ended the worker").waitFor()
    await plant(page, "")
    await page.button("Run it again").click()
    await page.slider.waitFor()
    await page.goTo(42)
    await page.page.locator(".step-head").getByText("Step 42").waitFor()
    expect(await page.hash()).toBe(hash)
  })

  it("while a recording is replayed: it is replayed again without being dropped again", async () => {
    const page = await openPage({}, "", planting)
    await page.ready()
    await plant(page, onCommand("replay", ended))
    await page.drop(fileURLToPath(new URL("../../../test/golden/cpu.recording.jsonl.gz", import.meta.url)))
    await page.page.getByRole("alert").getByText("the browser ended the worker").waitFor()
    await plant(page, "")
    await page.button("Run it again").click()
    await page.slider.waitFor()
    await page.goTo(700)
    expect(await page.page.locator(".run").count()).toBe(1)
  })

  it("while a file is read: that is said, and the file can be dropped again", async () => {
    const script = onCommand("open", `if (event.data.command.name === "bad.jsonl") { ${ended} }`)
    const page = await openPage({}, "", `${planting}; window.planted = ${JSON.stringify(script)}`)
    await page.ready()
    const bad = join(folder, "bad.jsonl")
    writeFileSync(bad, "{}")
    await page.drop(bad)
    await page.page.getByRole("alert").getByText("the browser ended the worker").waitFor()
    await page.ready()
    await page.drop(small)
    await page.page.getByText("small.scenario.json: small").waitFor()
    await page.run()
    expect(await page.page.locator(".run").textContent()).toContain("small")
  })

  it("with the whole page: the scenario is there when it is opened again", async () => {
    const { page } = await openMade()
    const crashed = page.page.waitForEvent("crash")
    const context = page.page.context()
    const session = await context.newCDPSession(page.page)
    // It is never answered.
    void session.send("Page.crash").catch(() => {})
    await crashed
    const again = new StudioPage(await context.newPage())
    await again.page.goto(studio!.address)
    await again.ready()
    expect(await again.page.getByLabel("Name", { exact: true }).inputValue()).toBe("my own")
    expect(await again.page.getByLabel("Requests", { exact: true }).inputValue()).toBe("700")
    expect(again.complaints).toEqual([])
  })
})
