import { execFileSync, spawnSync } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { build, type Rolldown } from "vite"
import { expect, it } from "vitest"
import { simulated } from "./Experiments.ts"
import { browserScenario } from "./browserScenario.ts"

const chromium = ["chromium", "chromium-browser", "google-chrome"].find(
  (name) => spawnSync(name, ["--version"], { stdio: "ignore" }).status === 0,
)

it("gives the same plans in a browser as in Node", async (context) => {
  if (chromium === undefined) {
    console.warn("SKIPPED: no Chromium here (apt-get install chromium); the browser's plans were not compared")
    context.skip("no Chromium: apt-get install chromium")
    return
  }
  const folder = mkdtempSync(join(tmpdir(), "uniprefill-browser-"))
  try {
    const bundle = (await build({
      configFile: false,
      logLevel: "silent",
      resolve: { conditions: ["source"] },
      build: {
        write: false,
        minify: false,
        lib: { entry: fileURLToPath(new URL("./browserPage.ts", import.meta.url)), formats: ["iife"], name: "page" },
      },
    })) as unknown as ReadonlyArray<Rolldown.RolldownOutput>
    const code = bundle[0]!.output[0].code
    expect(code).not.toMatch(/node:(fs|path|worker_threads)/)
    const page = join(folder, "page.html")
    writeFileSync(page, `<!doctype html><body><script>${code.replaceAll("</script", "<\\/script")}</script></body>`)
    const flags = [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--no-first-run",
      "--disable-background-networking",
      `--user-data-dir=${folder}/profile`,
    ]
    const dom = execFileSync(chromium, [...flags, "--virtual-time-budget=60000", "--dump-dom", `file://${page}`], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
      // For what hangs.
      timeout: 600_000,
    })
    const hash = /<output>([0-9a-f]+)<\/output>/.exec(dom)?.[1]
    expect(hash).toBe(simulated(browserScenario).hash)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})
