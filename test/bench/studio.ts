import { readFileSync, readdirSync } from "node:fs"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { chromiumPath, noChromium, StudioBrowser } from "../../apps/studio/test/StudioBrowser.ts"

/**
 * The studio in Chromium on a trace: `node --conditions=source test/bench/studio.ts TRACE [replicas]`. Without a trace the
 * built-in slice. Prints what running, looking and drawing take, as the page sees it.
 */
const [trace, replicas = "2"] = process.argv.slice(2)

if (chromiumPath === undefined) {
  console.log(`SKIPPED: ${noChromium}`)
  process.exit(0)
}

/** Put into the page before it starts: notes results as they come, and times between frames. */
const probe = `
  window.probe = { results: [], gaps: [], last: 0, at: 0, answers: [], looks: [], shown: () => {} }
  // As if it were typed, without a driver that watches the page meanwhile. Ends once the step is shown.
  window.probe.goTo = (step) => new Promise((resolve) => {
    window.probe.shown = resolve
    const input = document.querySelector(".step-number input")
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(input, String(step))
    input.dispatchEvent(new Event("input", { bubbles: true }))
    input.form.requestSubmit()
  })
  const Real = window.Worker
  window.Worker = class extends Real {
    postMessage(message, ...rest) {
      if (message.command?.do === "look") this.asked = performance.now()
      super.postMessage(message, ...rest)
    }
    constructor(url) {
      super(url)
      this.addEventListener("message", ({ data }) => {
        // When the frame that shows the answer is done.
        if (data.tag === "done" && data.value.state) {
          const { asked } = this
          window.probe.answers.push(performance.now() - asked)
          requestAnimationFrame(() => setTimeout(() => {
            window.probe.looks.push(performance.now() - asked)
            window.probe.shown()
          }))
        }
      })
      this.addEventListener("message", ({ data }) => {
        if (data.tag === "done" && data.value.result) {
          const { endedAt, tookMs, checkpointsMs, hash, timeline } = data.value.result
          window.probe.results.push({ endedAt, tookMs, checkpointsMs, hash, steps: timeline.steps.count })
        }
      })
    }
  }
  const frame = (now) => {
    if (window.probe.last > 0) window.probe.gaps.push(now - window.probe.last)
    window.probe.last = now
    if (window.probe.at === 0 && document.querySelector('[role="slider"] canvas')?.width > 1 && window.probe.results.length > 0) {
      window.probe.at = performance.timeOrigin + performance.now()
    }
    requestAnimationFrame(frame)
  }
  requestAnimationFrame(frame)
`

const at = (sorted: ReadonlyArray<number>, share: number) =>
  sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!

const stats = (values: ReadonlyArray<number>): string => {
  const sorted = values.toSorted((a, b) => a - b)
  return `median ${at(sorted, 0.5).toFixed(1)}, P95 ${at(sorted, 0.95).toFixed(1)}, P99 ${at(sorted, 0.99).toFixed(1)}, most ${sorted.at(-1)!.toFixed(1)} ms (n ${sorted.length})`
}

/** Resident memory of the browser's largest renderer, MB. */
const rendererMegabytes = (): number => {
  let most = 0
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      if (!readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("--type=renderer")) continue
      const kilobytes = Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0)
      most = Math.max(most, kilobytes / 1024)
    } catch {
      // Gone meanwhile.
    }
  }
  return most
}

await using studio = await StudioBrowser.open()
const opened = await studio.page({}, "", probe)
const { page } = opened
await opened.ready()
if (trace !== undefined) {
  await opened.drop(trace)
  await page.getByText("a trace of").waitFor()
  const rate = page.getByLabel("Rate", { exact: true })
  await rate.fill("")
  await rate.press("Enter")
}
await page.getByLabel("Replicas", { exact: true }).fill(replicas)
await page.getByLabel("Replicas", { exact: true }).press("Enter")
await opened.ready()
await page.evaluate("window.probe.gaps.length = 0")
await opened.run()
await page.waitForFunction("window.probe.at > 0")

interface Probe {
  readonly results: ReadonlyArray<{
    readonly endedAt: number
    readonly tookMs: number
    readonly checkpointsMs: number
    readonly hash: string
    readonly steps: number
  }>
  readonly gaps: ReadonlyArray<number>
  readonly at: number
}
const seen = await page.evaluate<Probe>("window.probe")
const [run] = seen.results
const assets = readdirSync(join(studio.site, "assets")).map(
  (name) => gzipSync(readFileSync(join(studio.site, "assets", name))).length,
)
console.log(`bundle            ${(assets.reduce((sum, bytes) => sum + bytes, 0) / 1000).toFixed(0)} KB gzipped`)
console.log(
  `run               ${run!.steps} steps in ${(run!.tookMs / 1000).toFixed(1)} s, ${(run!.checkpointsMs / 1000).toFixed(1)} s of that for checkpoints; plan hash ${run!.hash}`,
)
console.log(`page while running  gaps between frames: ${stats(seen.gaps)}`)
console.log(`first picture     ${(seen.at - run!.endedAt).toFixed(0)} ms after the run ended`)
console.log(`memory            ${rendererMegabytes().toFixed(0)} MB after the run`)

// Somebody looks at the picture first; meanwhile the worker looks back here and there.
await page.waitForTimeout(2000)

// Steps all over the run, without regard to where the last one was.
for (let i = 0; i < 200; i++) await page.evaluate(`window.probe.goTo(${1 + ((i * 7_919_317) % run!.steps)})`)
const looks = await page.evaluate<Array<number>>("window.probe.looks")
const answers = await page.evaluate<Array<number>>("window.probe.answers")
console.log(`any step          from asking to the frame that shows it: ${stats(looks)}`)
console.log(`                  to the worker's answer: ${stats(answers)}`)

/** Turns the wheel in every frame, as fast as frames come, and notes the gaps between them. */
const turning = (frames: number, deltaX: number, deltaY: number) => `new Promise((resolve) => {
  const target = document.querySelector('[role="slider"]')
  const box = target.getBoundingClientRect()
  const gaps = []
  let last = 0
  const turn = (now) => {
    if (last > 0) gaps.push(now - last)
    last = now
    if (gaps.length >= ${frames}) return resolve(gaps)
    target.dispatchEvent(new WheelEvent("wheel", { deltaX: ${deltaX}, deltaY: ${deltaY}, clientX: box.x + box.width / 2, clientY: box.y + 80, bubbles: true, cancelable: true }))
    requestAnimationFrame(turn)
  }
  requestAnimationFrame(turn)
})`
await opened.slider.focus()
await page.keyboard.press("f")
const zooming: Array<number> = []
const panning: Array<number> = []
for (let level = 0; level < 6; level++) {
  panning.push(...(await page.evaluate<Array<number>>(turning(90, 25, 0))))
  panning.push(...(await page.evaluate<Array<number>>(turning(90, -25, 0))))
  zooming.push(...(await page.evaluate<Array<number>>(turning(60, 0, -12))))
}
console.log(`panning           gaps between frames, from the whole run to single steps: ${stats(panning)}`)
console.log(`zooming           gaps between frames: ${stats(zooming)}`)
console.log(`memory            ${rendererMegabytes().toFixed(0)} MB at the end`)
await opened.close()
