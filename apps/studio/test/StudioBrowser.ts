import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import type { Server } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { type Browser, type BrowserContextOptions, chromium, type Locator, type Page } from "playwright-core"
import { build } from "vite"
import { siteServer } from "../serve.mjs"

/** Debian's Chromium, or what is called so elsewhere; undefined where there is none. */
export const chromiumPath: string | undefined = ["chromium", "chromium-browser", "google-chrome"]
  .map((name) => spawnSync("which", [name], { encoding: "utf8" }).stdout.trim())
  .find((path) => path !== "")

export const noChromium = "no Chromium: apt-get install chromium"

const flags = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
]

/** The studio as it is built, served, and a browser to look at it. */
export class StudioBrowser implements AsyncDisposable {
  readonly address: string
  private readonly folder: string
  private readonly server: Server
  private readonly browser: Browser

  private constructor(folder: string, server: Server, browser: Browser) {
    this.folder = folder
    this.server = server
    this.browser = browser
    this.address = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  }

  /** Builds the page from its sources. Requires a Chromium. */
  static async open(): Promise<StudioBrowser> {
    const folder = mkdtempSync(join(tmpdir(), "uniprefill-studio-"))
    const root = fileURLToPath(new URL("..", import.meta.url))
    // As users get it: a test runner's own setting would bring React's development build.
    const { NODE_ENV } = process.env
    process.env["NODE_ENV"] = "production"
    await build({ root, logLevel: "error", build: { outDir: join(folder, "site") } })
    process.env["NODE_ENV"] = NODE_ENV
    const server = siteServer(join(folder, "site"))
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
    const browser = await chromium.launch({ executablePath: chromiumPath!, args: flags, timeout: 800_000 })
    return new StudioBrowser(folder, server, browser)
  }

  /** Where the page was built to. */
  get site(): string {
    return join(this.folder, "site")
  }

  /** `script` runs in the page before anything of its own. */
  async page(options: BrowserContextOptions = {}, hash = "", script = ""): Promise<StudioPage> {
    const context = await this.browser.newContext({
      viewport: { width: 1280, height: 800 },
      acceptDownloads: true,
      // A colour asked for is the colour there is: halfway through a change of theme, nothing has the contrast it comes to.
      reducedMotion: "reduce",
      ...options,
    })
    const page = await context.newPage()
    if (script !== "") await page.addInitScript(script)
    const studio = new StudioPage(page)
    await page.goto(`${this.address}${hash}`)
    return studio
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.browser.close()
    await new Promise((resolve) => this.server.close(resolve))
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** A page of the studio, and what it asked of the network or complained of. */
export class StudioPage {
  readonly page: Page
  /** Addresses asked for, in order; `blob:` and `data:` ones, which are on the page, left out. */
  readonly requests: Array<string> = []
  readonly complaints: Array<string> = []

  constructor(page: Page) {
    this.page = page
    page.setDefaultTimeout(800_000)
    page.on("request", (request) => {
      if (!/^(blob|data):/.test(request.url())) this.requests.push(request.url())
    })
    page.on("pageerror", (error) => this.complaints.push(error.message))
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) this.complaints.push(message.text())
    })
  }

  get slider(): Locator {
    return this.page.getByRole("slider")
  }

  button(name: string | RegExp): Locator {
    return this.page.getByRole("button", { name, exact: true })
  }

  /** Waits until the scenario at hand was checked and can run. */
  async ready(): Promise<void> {
    await this.page.getByText("ready", { exact: true }).waitFor()
  }

  /** Runs the scenario at hand to its end. */
  async run(): Promise<void> {
    await this.ready()
    await this.button("Run").click()
    await this.slider.waitFor()
  }

  /** Goes to a step by its number, from 1, and waits for its state. */
  async goTo(step: number): Promise<void> {
    const input = this.page.getByLabel("Step number")
    await input.fill(String(step))
    await input.press("Enter")
    await this.page.locator('.sections[aria-busy="false"]').waitFor()
  }

  /** The plan hash that the page shows. */
  async hash(): Promise<string> {
    await this.page.getByRole("button", { name: "Report", exact: true }).click()
    return (await this.page.getByTestId("plan-hash").textContent())!
  }

  async drop(...paths: ReadonlyArray<string>): Promise<void> {
    await this.page.getByTestId("file-input").setInputFiles([...paths])
  }

  async close(): Promise<void> {
    await this.page.context().close()
  }
}
