import { mkdirSync } from "node:fs"
import { join } from "node:path"
import { StudioBrowser } from "./StudioBrowser.ts"

/**
 * Takes pictures of every view, wide and narrow, light and dark:
 * `node --conditions=source apps/studio/test/makeScreenshots.ts FOLDER`. Some of them are in docs/studio.
 */
const [folder] = process.argv.slice(2)
if (folder === undefined) throw new Error("name a folder")
mkdirSync(folder, { recursive: true })

const sizes = { wide: { width: 1280, height: 800 }, narrow: { width: 420, height: 800 } } as const

/** A busy moment of the built-in slice. */
const busyStep = 21_696

await using studio = await StudioBrowser.open()
for (const [size, viewport] of Object.entries(sizes)) {
  for (const colorScheme of ["light", "dark"] as const) {
    const opened = await studio.page({ viewport, colorScheme, deviceScaleFactor: size === "narrow" ? 2 : 1 })
    const { page } = opened
    const picture = async (name: string) => {
      // What fades has faded.
      await page.waitForTimeout(500)
      await page.screenshot({ path: join(folder, `${name}-${size}-${colorScheme}.png`) })
    }
    await opened.ready()
    await picture("scenario")
    await opened.run()
    await picture("timeline")
    await opened.goTo(busyStep)
    await opened.slider.focus()
    await page.keyboard.press("z")
    for (let i = 0; i < 4; i++) await page.keyboard.press("s")
    await picture("step")
    await page
      .getByRole("button", { name: /^request \d+$/ })
      .first()
      .click()
    await page.getByText("Kept blocks at this step").scrollIntoViewIfNeeded()
    await picture("request")
    await opened.button("Branch here").click()
    await picture("branch")
    await opened.button(/^Run on with/).click()
    await page.getByText(/they part at/).waitFor()
    await opened.button("5 seeds").click()
    await page.getByText("over 5 seeds").waitFor()
    await picture("compare")
    await page.getByRole("heading", { name: "B − A" }).scrollIntoViewIfNeeded()
    await page.mouse.wheel(0, 260)
    await picture("difference")
    await opened.button("Report").click()
    await picture("report")
    await opened.button("Find the knee").click()
    await opened.button("Again").waitFor()
    await page.getByRole("heading", { name: "Goodput against rate" }).scrollIntoViewIfNeeded()
    await page.mouse.wheel(0, 400)
    await picture("knee")
    await opened.close()
    console.log(
      `${size}, ${colorScheme}: ${opened.complaints.length === 0 ? "no complaints" : opened.complaints.join("; ")}`,
    )
  }
}
