import { afterAll, afterEach, beforeEach, expect } from "vitest"
import { chromiumPath, noChromium, StudioBrowser, type StudioPage } from "./StudioBrowser.ts"

/** The studio for a file of tests, which are skipped where there is no Chromium; pages are closed after each test. */
export const openStudio = async () => {
  const studio = chromiumPath === undefined ? null : await StudioBrowser.open()
  if (studio === null) console.warn(`SKIPPED: ${noChromium}; the studio was not looked at in a browser`)
  const opened: Array<StudioPage> = []

  beforeEach((context) => {
    if (studio === null) context.skip(noChromium)
  })

  afterEach(async () => {
    for (const page of opened.splice(0)) {
      // A page that complains is a page that is broken, whatever else was looked at.
      expect(page.complaints).toEqual([])
      await page.close()
    }
  })

  afterAll(() => studio?.[Symbol.asyncDispose]())

  const openPage = async (...options: Parameters<StudioBrowser["page"]>): Promise<StudioPage> => {
    const page = await studio!.page(...options)
    opened.push(page)
    return page
  }
  return { studio, openPage }
}
