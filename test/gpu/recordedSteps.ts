/**
 * Steps of a recording by what they hold: what they took, and what a calibration predicts for them.
 *
 *     node --conditions=source test/gpu/recordedSteps.ts RECORDING [CALIBRATION]
 *
 * The recording is replayed as far as its plans come out the same. Without a calibration steps are predicted by the one that they were planned by.
 */
import { readFileSync } from "node:fs"
import { decodeCalibration } from "@uniprefill/cost-model/Calibration"
import { DeviceCostModel } from "@uniprefill/cost-model/DeviceCostModel"
import { randomKeep, type KeepModel } from "@uniprefill/executor/simulated/KeepModel"
import { SimulatedDevice } from "@uniprefill/executor/simulated/SimulatedDevice"
import type { RecordedInput } from "@uniprefill/recording/Recording"
import { readRecording } from "@uniprefill/recording/RecordingFile"
import { resultOf } from "@uniprefill/recording/Replay"
import { Driver } from "@uniprefill/scheduler/Driver"
import { policyByName } from "@uniprefill/scheduler/policies/PolicyByName"
import type { Request } from "@uniprefill/scheduler/Request"
import type { StepLoad } from "@uniprefill/scheduler/StepLoad"
import { Effect } from "effect"

const [file, calibrationFile] = process.argv.slice(2)
if (file === undefined) {
  console.error("usage: recordedSteps.ts RECORDING [CALIBRATION]")
  process.exit(2)
}
const { header, events } = await Effect.runPromise(readRecording(file))
const { layout, schedule, limits, policy: named } = header
const policy = policyByName(named.name, named.options)
if (policy === undefined) throw new RangeError(`${file}: policy ${named.name} is from a module`)
const calibration =
  calibrationFile === undefined
    ? header.costs.calibration
    : decodeCalibration(JSON.parse(readFileSync(calibrationFile, "utf8")))
const costs = new DeviceCostModel({ ...header.costs, calibration })
const driver = new Driver({ ...limits, layout, schedule, policy, costModel: new DeviceCostModel(header.costs) })

type Done = RecordedInput & { readonly e: "done" }
const all = Array.from(events)
const done = new Map(all.flatMap((event) => (event.e === "done" ? [[event.step, event] as const] : [])))

/** Bitmaps that were chosen, by content; the content of each slot. */
const chosen = new Map<number, Array<Uint32Array>>()
const contents = new Map<number, number>()
const unknown = randomKeep(1, [1])
const keep: KeepModel = {
  select: (key, tokens, segment, shape) => chosen.get(key)?.[segment] ?? unknown.select(key, tokens, segment, shape),
}
const device = new SimulatedDevice(layout, schedule, limits.slots, keep)

const learn = ({ selections }: Done): void => {
  for (let at = 0; at < selections.length; at += 4 + selections[at + 3]!) {
    const content = contents.get(selections[at]!)!
    const bitmaps = chosen.get(content) ?? []
    bitmaps[selections[at + 1]!] = Uint32Array.from(selections.slice(at + 4, at + 4 + selections[at + 3]!))
    chosen.set(content, bitmaps)
  }
}

const put = ({ contentId, promptLength, outputs, drops, bitmaps }: Request): void =>
  device.putContent(contentId, { key: contentId, promptLength, outputs, drops, bitmaps: [...bitmaps], stopAt: -1 })

const upTo = (value: number, bounds: ReadonlyArray<number>): string => {
  const at = bounds.findIndex((bound) => value <= bound)
  return at < 0 ? `more than ${bounds.at(-1)}` : `up to ${bounds[at]}`
}

/** What a step is counted under. */
const kindsOf = (load: StepLoad): ReadonlyArray<string> => {
  const { decodeRows, items, rows, selections } = load
  if (items === 0) return [`decode alone, rows: ${upTo(decodeRows, [1, 8, 16, 32, 64, 128, 256])}`]
  const most = Math.max(...rows) + decodeRows
  const made = selections.reduce((sum, one) => sum + one, 0)
  return [
    `with prefill, rows: ${upTo(most, [512, 1024, 2048, 4096, 8192])}`,
    `with prefill, selections: ${made > 6 ? "more than 6" : made}`,
  ]
}

interface Found {
  measured: number
  predicted: number
  readonly errors: Array<number>
}
const found = new Map<string, Found>()

for (const event of all) {
  switch (event.e) {
    case "submit": {
      const outcome = driver.submit(event.submission, event.now)
      if (outcome._tag === "Queued") for (const one of [outcome.request, ...outcome.request.forks]) put(one)
      break
    }
    case "abort":
      for (const one of driver.abort(event.id).puts) put(one)
      break
    case "finish":
      for (const one of driver.finish(event.id).puts) put(one)
      break
    case "page":
      driver.pageFilled(event.id, event.key)
      break
    case "tick": {
      const { puts, plans } = driver.tick(event.now)
      for (const one of puts) put(one)
      for (const plan of plans) {
        for (let i = 0; i < plan.opens.length; i += 2) contents.set(plan.opens.data[i]!, plan.opens.data[i + 1]!)
        const result = done.get(plan.stepId)
        if (result !== undefined) learn(result)
        device.release(device.prepare(plan))
        if (result === undefined) continue
        const predicted = costs.stepMicros(device.load)
        if (predicted === 0) continue
        for (const kind of kindsOf(device.load)) {
          const sums = found.get(kind) ?? { measured: 0, predicted: 0, errors: [] }
          sums.measured += result.deviceMicros
          sums.predicted += predicted
          sums.errors.push(predicted / result.deviceMicros - 1)
          found.set(kind, sums)
        }
      }
      break
    }
    case "done":
      for (const one of driver.stepDone(resultOf(event)).puts) put(one)
      break
    case "failed":
      throw new RangeError(`${file}: a step failed; what follows is not followed`)
    case "plan":
  }
}

const percent = (share: number): string => `${share < 0 ? "" : "+"}${(100 * share).toFixed(1)}%`
console.log(`${file}: predicted by ${calibration.device}, version ${calibration.version}`)
console.log(`${"steps that hold".padEnd(44)} steps   measured ms  predicted ms     sum  median`)
for (const [kind, { measured, predicted, errors }] of [...found].toSorted((a, b) =>
  a[0].localeCompare(b[0], "en", { numeric: true }),
)) {
  const middle = errors.toSorted((a, b) => a - b)[errors.length >> 1]!
  const figures = [measured / 1000, predicted / 1000].map((ms) => ms.toFixed(1).padStart(13)).join(" ")
  console.log(
    `${kind.padEnd(44)} ${String(errors.length).padStart(5)} ${figures} ${percent(predicted / measured - 1).padStart(7)} ${percent(middle).padStart(7)}`,
  )
}
