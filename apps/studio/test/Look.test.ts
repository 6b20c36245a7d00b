import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { createRequire } from "node:module"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { afterAll, describe, expect, it } from "vitest"
import type { StudioPage } from "./StudioBrowser.ts"
import { openStudio } from "./OpenStudio.ts"
import { plant, planting } from "./Planted.ts"

const folder = mkdtempSync(join(tmpdir(), "uniprefill-studio-look-"))
const { studio, openPage } = await openStudio()

const scenario = join(folder, "small.scenario.json")
writeFileSync(
  scenario,
  JSON.stringify({
    name: "small",
    seed: 3,
    workload: { requests: 60, ratePerSecond: 6, promptTokens: "lognormal:9000,1,60000" },
  }),
)

const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8")

interface AxeViolation {
  readonly id: string
  readonly impact: string
  readonly nodes: ReadonlyArray<{ readonly target: ReadonlyArray<string>; readonly failureSummary: string }>
}

declare const axe: { readonly run: () => Promise<{ readonly violations: ReadonlyArray<AxeViolation> }> }

/** What axe finds serious on a page as it is, with where. */
const seriousFaults = async ({ page }: StudioPage): Promise<ReadonlyArray<string>> => {
  // Evaluated and not added: the page takes scripts from its own host alone.
  await page.evaluate(`${axeSource}; undefined`)
  const { violations } = await page.evaluate(() => axe.run())
  return violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(
      ({ id, nodes }) =>
        `${id}: ${nodes.map(({ target, failureSummary }) => `${target.join(" ")} ${failureSummary}`).join("; ")}`,
    )
}

afterAll(() => rmSync(folder, { recursive: true, force: true }))

const wide = { width: 1280, height: 800 }
const narrow = { width: 420, height: 800 }

/** Files are read once the run that needs them has been stopped. */
const readWhenStopped = `{
  const stopped = new Promise((resolve) => self.addEventListener("message", ({ data }) => data.stop && resolve()))
  const { arrayBuffer } = Blob.prototype
  Blob.prototype.arrayBuffer = function () {
    return stopped.then(() => arrayBuffer.call(this))
  }
}`

describe("every view", () => {
  it.each([
    ["wide", wide],
    ["narrow", narrow],
  ] as const)("is accessible, %s, light and dark, and nothing lies outside of the page", async (_, viewport) => {
    const page = await openPage({ viewport, colorScheme: "light" })
    const look = async (what: string) => {
      for (const colorScheme of ["dark", "light"] as const) {
        await page.page.emulateMedia({ colorScheme })
        await page.page.locator(`html[data-theme="${colorScheme}"]`).waitFor()
        expect(await seriousFaults(page), `faults of ${what}, ${colorScheme}`).toEqual([])
      }
      const ofDialog =
        "const dialog = document.querySelector('dialog[open]'); dialog ? dialog.scrollWidth - dialog.clientWidth : 0"
      expect(await page.page.evaluate(ofDialog), `${what}: wider than the dialog`).toBeLessThanOrEqual(0)
      const overflow = await page.page.evaluate<number>("document.documentElement.scrollWidth - window.innerWidth")
      expect(overflow, `${what}: wider than the page`).toBeLessThanOrEqual(0)
    }
    await page.ready()
    await look("scenario")
    await page.drop(scenario)
    await page.run()
    await look("timeline")
    await page.button("First step where a prompt waits").click()
    await page.page.getByText("Why prompts wait").waitFor()
    await page.slider.focus()
    await page.page.keyboard.press("z")
    await page.page.keyboard.press("ArrowDown")
    await page.page.evaluate(
      'for (const details of document.querySelectorAll(".inspector details")) details.open = true',
    )
    await look("a step and a request")
    await page.slider.focus()
    await page.page.keyboard.press("b")
    await page.page.getByRole("dialog").waitFor()
    await look("the branch dialog")
    await page.button(/^Run on with/).click()
    await page.page.getByText(/they part at|make the same plans/).waitFor()
    await look("comparison")
    await page.button("Report").click()
    await page.button("Find the knee").click()
    await page.button("Again").waitFor()
    await look("report")
    await page.page.getByTitle("Export", { exact: true }).click()
    await page.page.getByRole("dialog").waitFor()
    await look("export")
  })
})

describe("the page", () => {
  it("asks nothing of the network once it is loaded, and takes no more than 400 KB to load", async () => {
    const page = await openPage()
    await page.ready()
    const loaded = [...page.requests]
    expect(loaded.every((address) => address.startsWith(studio!.address))).toBe(true)
    await page.drop(scenario)
    await page.run()
    await page.goTo(30)
    await page.button("Branch here").click()
    await page.button(/^Run on with/).click()
    await page.page.getByText(/they part at|make the same plans/).waitFor()
    await page.button("3 seeds").click()
    await page.page.getByText("over 3 seeds").waitFor()
    await page.button("Report").click()
    await page.button("Find the knee").click()
    await page.button("Again").waitFor()
    expect(page.requests).toEqual(loaded)
    const assets = readdirSync(join(studio!.site, "assets"))
    const bytes = assets.reduce(
      (sum, name) => sum + gzipSync(readFileSync(join(studio!.site, "assets", name))).length,
      0,
    )
    expect(assets.length).toBeGreaterThanOrEqual(3)
    expect(bytes).toBeLessThan(400_000)
  })

  it("is used by keys alone", async () => {
    const page = await openPage()
    await page.ready()
    const { keyboard } = page.page
    const focused = () =>
      page.page.evaluate<string>(`(() => {
        const element = document.activeElement
        return element.tagName + " " + (element.getAttribute("aria-label") ?? element.textContent).trim()
      })()`)
    const tabTo = async (name: RegExp) => {
      for (let i = 0; i < 120; i++) {
        if (name.test(await focused())) return
        await keyboard.press("Tab")
      }
      throw new Error(`no way by Tab to ${name}; at ${await focused()}`)
    }
    await tabTo(/^BUTTON Run$/)
    await keyboard.press("Enter")
    await page.slider.waitFor()
    await tabTo(/^DIV Steps of run A/)
    await keyboard.press("n")
    await page.page.getByText("Why prompts wait").waitFor()
    const at = async () => Number(await page.slider.getAttribute("aria-valuenow"))
    const first = await at()
    await keyboard.press("ArrowRight")
    expect(await at()).toBe(first + 1)
    await keyboard.press("Shift+ArrowLeft")
    await keyboard.press("Home")
    expect(await at()).toBe(1)
    await keyboard.press("End")
    expect(await at()).toBe(Number(await page.slider.getAttribute("aria-valuemax")))
    for (const key of ["w", "s", "a", "d", "f", "z", "PageUp", "PageDown"]) await keyboard.press(key)
    await keyboard.press("ArrowDown")
    await page.page.getByRole("heading", { name: /^Request \d+/ }).waitFor()
    await keyboard.press("Escape")
    await keyboard.press("n")
    await keyboard.press("b")
    await page.page.getByRole("dialog").waitFor()
    // The dialog has the focus on its first choice; Escape gives it back to the timeline.
    await keyboard.press("Escape")
    await expect.poll(() => page.page.getByRole("dialog").count()).toBe(0)
    expect(await focused()).toMatch(/^DIV Steps of run A/)
    await keyboard.press("b")
    // Tab passes it by until the moment of this step has been looked up.
    await page.page.getByRole("button", { name: /^Run on with/, disabled: false }).waitFor()
    await tabTo(/^BUTTON Run on with/)
    await keyboard.press("Enter")
    await page.page.getByText(/they part at|make the same plans/).waitFor()
    await keyboard.press("4")
    await page.page.getByText("What these figures rest on").waitFor()
    await keyboard.press("?")
    await page.page.getByRole("dialog", { name: "Keys" }).waitFor()
  })

  it("shows the theme that is chosen, and keeps it", async () => {
    const page = await openPage({ colorScheme: "light" })
    await page.ready()
    const ground = () => page.page.evaluate<string>("getComputedStyle(document.body).backgroundColor")
    const light = await ground()
    await page.page.getByLabel("Theme").selectOption("dark")
    await expect.poll(ground).not.toBe(light)
    const dark = await ground()
    await page.page.reload()
    await page.ready()
    expect(await ground()).toBe(dark)
  })

  it("keeps a scenario that is being made over a reload", async () => {
    const page = await openPage()
    await page.ready()
    const slots = page.page.getByLabel("Name", { exact: true })
    await slots.fill("half made")
    await slots.press("Enter")
    await page.page.reload()
    await page.ready()
    expect(await slots.inputValue()).toBe("half made")
  })

  it("is zoomed and panned by wheel and by touch", async () => {
    const page = await openPage({ hasTouch: true })
    await page.drop(scenario)
    await page.run()
    const box = (await page.slider.boundingBox())!
    const [x, y] = [box.x + box.width / 2, box.y + 80]
    /** The time that the window in the overview spans, as a share of its width. */
    const shot = async () => (await page.slider.screenshot()).toString("base64")
    const whole = await shot()
    await page.page.mouse.move(x, y)
    await page.page.mouse.wheel(0, -600)
    await expect.poll(shot).not.toBe(whole)
    const zoomed = await shot()
    await page.page.mouse.down()
    await page.page.mouse.move(x - 150, y, { steps: 4 })
    await page.page.mouse.up()
    await expect.poll(shot).not.toBe(zoomed)
    expect(await page.slider.getAttribute("aria-valuetext")).toContain("none selected")
    await page.page.touchscreen.tap(x, y)
    await expect.poll(() => page.slider.getAttribute("aria-valuetext")).toMatch(/^step \d+ of replica 0/)
  })

  it("takes a trace of a hundred megabytes, and says what it cannot keep of it", async () => {
    const page = await openPage({}, "", planting)
    await page.ready()
    const big = join(folder, "big.jsonl")
    // No faster than they are served: all are, in millions of steps, and the run is far from its end when it is stopped.
    const row = (i: number) =>
      JSON.stringify({
        timestamp: i * 300,
        input_length: 512 * 24,
        output_length: 3,
        hash_ids: Array.from({ length: 24 }, (_, b) => i * 24 + b),
      })
    const rows: Array<string> = []
    for (let bytes = 0, i = 0; bytes < 100_000_000; i++) bytes += rows.push(row(i)) && rows[i]!.length + 1
    writeFileSync(big, rows.join("\n"))
    await page.drop(big)
    await page.page.getByText(`big.jsonl: a trace of ${rows.length} requests`).waitFor()
    await page.ready()
    // It is taken in by a worker: the page answers meanwhile.
    await plant(page, readWhenStopped)
    await page.button("Run").click()
    await page.button("Stop here").click()
    await page.page.getByText("it was stopped before the first").waitFor()
    await plant(page, "")
    await page.button("Scenario").click()
    await page.button("Run").click()
    await page.page.getByText(/ s simulated$/).waitFor()
    await page.button("Stop here").click()
    await page.page.getByText("PARTIAL RESULT: stopped").waitFor()
    await page.slider.waitFor()
    expect(Number(await page.slider.getAttribute("aria-valuemax"))).toBeGreaterThan(0)
  })
})
