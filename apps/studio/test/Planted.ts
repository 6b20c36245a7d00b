import type { StudioPage } from "./StudioBrowser.ts"

/** Runs in the page before its own scripts: workers made while `window.planted` holds a script begin with that one. */
export const planting = `(() => {
  const RealBlob = window.Blob
  const RealWorker = window.Worker
  let script = ""
  window.planted = ""
  window.Blob = class extends RealBlob {
    constructor(parts, options) {
      super(parts, options)
      if (options?.type === "text/javascript") script = parts[0]
    }
  }
  window.Worker = class extends RealWorker {
    constructor(url, options) {
      const own = new RealBlob([window.planted, script], { type: "text/javascript" })
      super(window.planted === "" ? url : URL.createObjectURL(own), options)
    }
  }
})()`

/** Has workers that are made from now on begin with a script; none with an empty one. */
export const plant = (page: StudioPage, script: string) =>
  page.page.evaluate(`window.planted = ${JSON.stringify(script)}`)
