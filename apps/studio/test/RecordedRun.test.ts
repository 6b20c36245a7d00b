import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { gunzipSync } from "node:zlib"
import { RecordedRun } from "@uniprefill/studio/engine/RecordedRun"
import type { RunResult } from "@uniprefill/studio/protocol/Protocol"
import { describe, expect, it } from "vitest"

const recording = (path: string) => new Blob([readFileSync(fileURLToPath(new URL(path, import.meta.url)))])

const needle = "../../../packages/simulator/test/needle.recording.jsonl.gz"
const golden = "../../../test/golden/cpu.recording.jsonl.gz"

interface Done {
  readonly step: number
  readonly selections: ReadonlyArray<number>
}

const played = async (path: string): Promise<readonly [RecordedRun, RunResult]> => {
  const run = await RecordedRun.open("a.recording.jsonl.gz", recording(path))
  return [
    run,
    await run.run(
      () => false,
      () => {},
    ),
  ]
}

describe("a recording", () => {
  it("is replayed plan by plan, and says so", async () => {
    const [, result] = await played(golden)
    expect(result.complete).toBe(true)
    expect(result.about.join("\n")).toMatch(/replay {5}identical: \d+ plans/)
    const { steps } = result.timeline
    expect(steps.count).toBeGreaterThan(1000)
    for (let i = 1; i < steps.count; i++) {
      expect(steps.start[i]).toBeGreaterThanOrEqual(steps.start[i - 1]! + steps.micros[i - 1]!)
    }
    expect(result.requests.outputs.reduce((sum, outputs) => sum + outputs, 0)).toBeGreaterThan(0)
  })

  it("shows any step as it was, in any order", async () => {
    const [run, { timeline }] = await played(golden)
    const { steps } = timeline
    const first = [700, 3, 1200, 701, steps.count - 1, 0].map((step) => [step, run.at(step, 5)] as const)
    for (const [step, { state }] of first) {
      expect([state.step, state.startMicros, state.decodeRows, state.memory.used]).toEqual([
        steps.stepId[step],
        steps.start[step],
        steps.decodeRows[step],
        steps.used[step],
      ])
    }
    for (const [step, moment] of first.toReversed()) expect(run.at(step, 5)).toEqual(moment)
  })

  it("shows the blocks that the model really kept", async () => {
    const [run, { timeline }] = await played(golden)
    const { items } = timeline
    const text = gunzipSync(readFileSync(fileURLToPath(new URL(golden, import.meta.url)))).toString()
    // A piece that ends segment 0, whose selection is the only one of its step, as the result in the file has it.
    const results = new Map(
      text.split("\n").flatMap((line) => {
        const event = line.startsWith('{"e":"done"') ? (JSON.parse(line) as Done) : null
        return event === null || event.selections.length === 0 ? [] : [[event.step, event.selections] as const]
      }),
    )
    const last = Array.from(items.step.keys()).find((i) => {
      const selections = results.get(timeline.steps.stepId[items.step[i]!]!)
      const isAlone = selections !== undefined && selections.length === 4 + selections[3]!
      return (
        isAlone &&
        selections[1] === 0 &&
        items.lastSegment[i] === 0 &&
        items.firstSegment[i] === 0 &&
        timeline.steps.items[items.step[i]!] === 1
      )
    })!
    // Two steps are in flight: the second one after it knows what was selected.
    const { detail } = run.at(items.step[last]! + 2, items.request[last]!)
    const { kept, state } = detail!
    expect(kept.rows).toEqual(state.keptRows)
    expect(kept.rows.length).toBeGreaterThanOrEqual(2)
    // The first bitmap, as the file has it: a block that it keeps is whole, another one has forced rows at most.
    const selections = results.get(timeline.steps.stepId[items.step[last]!]!)!
    const bits = selections.slice(4, 4 + selections[3]!)
    const whole = Array.from(kept.kept[0]!, (rows, b) => rows === Math.min(64, state.promptTokens - b * 64))
    const isSet = (block: number) => ((bits[block >> 5]! >>> (block & 31)) & 1) === 1
    const open = whole.slice(2, -3)
    expect(open).toEqual(open.map((_, b) => isSet(b + 2)))
    expect(open).toContain(false)
  })

  it("that this build cannot follow is refused, and one that it cannot follow to its end is shown up to there", async () => {
    await expect(RecordedRun.open("needle.recording.jsonl.gz", recording(needle))).rejects.toThrow(/line 1: Expected 2/)
    const lines = gunzipSync(readFileSync(fileURLToPath(new URL(golden, import.meta.url))))
      .toString()
      .split("\n")
    const results = lines.flatMap((line, i) => (line.startsWith('{"e":"done"') ? [i] : []))
    const broken = new Blob([lines.filter((_, i) => i !== results[400]).join("\n")])
    const part = await RecordedRun.open("broken.recording.jsonl", broken)
    const result = await part.run(
      () => false,
      () => {},
    )
    expect(result.complete).toBe(false)
    expect(result.ended).toMatch(/cannot follow it beyond event/)
    expect(result.timeline.steps.count).toBeGreaterThan(300)
    expect(part.at(300, -1).state.step).toBe(result.timeline.steps.stepId[300])
  })

  it("that is cut off is refused with its line", async () => {
    const text = new Blob([`{"format":"uniprefill-recording"}\n{"e":"tick"`])
    await expect(RecordedRun.open("cut.recording.jsonl", text)).rejects.toThrow(/line 1/)
  })
})
