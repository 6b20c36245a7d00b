import { expect, it } from "@effect/vitest"
import { type DropSchedule, denseSchedule } from "@uniprefill/model/DropSchedule"
import { parseJson } from "@uniprefill/model/JsonFile"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import { schedulePresets } from "@uniprefill/model/SchedulePresets"
import { checkSchedule, decodeScheduleFile, encodeScheduleFile, maxDropLayers } from "@uniprefill/model/ScheduleFile"
import { Effect } from "effect"
import fc from "fast-check"

const spec = {
  layers: Array.from({ length: 48 }, (_, i) => ({ mixer: { kind: i % 4 === 3 ? "full" : "delta" } })),
} as unknown as ModelSpec

const schedules: fc.Arbitrary<DropSchedule> = fc.record({
  dropLayers: fc
    .uniqueArray(fc.integer({ min: 0, max: 10 }).map((i) => 4 * i + 3))
    .chain((layers) =>
      fc.tuple(
        ...layers
          .toSorted((a, b) => a - b)
          .map((layer) => fc.double({ min: 0, max: 1, noNaN: true }).map((p) => ({ layer, p: p + 0 }))),
      ),
    ),
  rule: fc.constantFrom("exclusive", "reference"),
  block: fc.constantFrom(64, 128, 256),
  sink: fc.nat(1000),
  lastQ: fc.integer({ min: 1, max: 512 }),
  minPromptTokens: fc.nat(100_000),
  windowBy: fc.constantFrom("kept", "original"),
})

it("what is written is read back", () => {
  fc.assert(
    fc.property(schedules, fc.option(fc.string()), (schedule, fingerprint) => {
      const text = encodeScheduleFile({ schedule, fingerprint })
      const read = Effect.runSync(
        parseJson("s.json", text).pipe(Effect.flatMap((json) => decodeScheduleFile("s.json", json, spec))),
      )
      expect(read).toEqual({ schedule, fingerprint })
    }),
  )
})

it.effect("a drop layer that is not full attention is refused with its kind", () =>
  Effect.gen(function* () {
    const error = yield* Effect.flip(
      checkSchedule("s.json", { ...denseSchedule, dropLayers: [{ layer: 4, p: 0.9 }] }, spec),
    )
    expect(error.message).toBe(
      "s.json: dropLayers.0.layer: layer 4 is of kind state; only a full-attention layer can select",
    )
  }),
)

it.effect("there is a limit on drop layers", () =>
  Effect.gen(function* () {
    const many = Array.from({ length: maxDropLayers + 1 }, (_, layer) => ({ layer, p: 1 }))
    const error = yield* Effect.flip(checkSchedule("s.json", { ...denseSchedule, dropLayers: many }, spec))
    expect(error.message).toBe("s.json: dropLayers: 32 layers, at most 31")
  }),
)

it.effect("a preset fits a model of the shape that it was measured on", () =>
  Effect.gen(function* () {
    yield* checkSchedule("preset", schedulePresets.get("qwen3-next-80b-a3b")!, spec)
    const llama = { layers: Array.from({ length: 32 }, () => ({ mixer: { kind: "full" } })) } as unknown as ModelSpec
    yield* checkSchedule("preset", schedulePresets.get("llama-3.1-8b")!, llama)
    const gemma = {
      layers: Array.from({ length: 48 }, (_, i) => ({ mixer: { kind: (i + 1) % 6 === 0 ? "full" : "sliding" } })),
    } as unknown as ModelSpec
    yield* checkSchedule("preset", schedulePresets.get("gemma-3-12b")!, gemma)
  }),
)
