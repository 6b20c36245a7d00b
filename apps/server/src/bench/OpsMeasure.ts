import { Context, Effect } from "effect"
import type { OpsMeasurements, TimedStep } from "./OpsCalibration.ts"
import type { StepProbe } from "./StepProbe.ts"

/** Bytes that are copied at a time, at most. */
const copyBytes = 1 << 30
/** Decode steps that are looked at, after those that warm up. */
const decodeSteps = { warmUp: 4, timed: 12 } as const
/** Rows that decode while a prompt is computed, and the rows of both: as many as fill a device's tiles, as in the steps that a scheduler makes. */
const beside = { decodes: [8, 32, 96], rows: [64, 512, 1408, 2048, 4096] } as const
/** Selections are differences of steps: these need more of them. */
const leastSelections = 7
/** Rows that decode at a time, and what they have behind them. */
const decodeRows = [1, 8, 16, 32, 48, 64, 128, 256] as const
const contexts = [256, 2048] as const
/** As many as a server mostly decodes: their keys are looked at more closely. */
const usualRows = { from: 32, to: 64, contexts: [256, 1024, 2048, 4096] } as const
/** Prompts that drop, whole in their step: how many rows, and what is kept, as shares of the schedule's p; several in one step, and beside decodes. */
const dropping = {
  rows: { from: 1024, to: 8192 },
  sharesOfP: [1, 0.85, 0.5],
  together: { prompts: 4, rows: 1024 },
  beside: { decodes: 32, rows: [1024, 2048, 4096], shareOfP: 0.85 },
} as const
/** Rows that decode while selections are looked at: there is always something that waits for them. */
const decodesBesideSelections = 8

/** Device time after which what is left of a list is left out, but for what a calibration cannot be without, µs: where steps are slow. */
export const Patience = Context.Reference<number>("uniprefill/bench/Patience", { defaultValue: () => 30e6 })

/** Of steps beside which nothing decodes. */
const nobody = { grow: () => {}, end: Effect.void } as const

/** Powers of two fill a device's tiles best, and come first; those between them, from 512 on, as other prompts do. */
const promptRows = (most: number): { readonly powers: Array<number>; readonly between: Array<number> } => {
  const powers: Array<number> = []
  for (let power = 64; power <= most; power *= 2) powers.push(power)
  const large = powers.filter((power) => power >= 512)
  const between = large.flatMap((power) => [9, 11, 13].map((eighths) => (power / 8) * eighths))
  return { powers, between: between.filter((rows) => rows <= most) }
}

export interface MeasureOptions {
  readonly iterations: number
  /** Tokens of the longest prompt. */
  readonly longest: number
  /** Whether the schedule drops. */
  readonly drops: boolean
  /** {@link Patience}. */
  readonly patience: number
}

/** What `bench ops` measures, each as a step or several of the probe's executor. */
export const makeMeasure = (probe: StepProbe, { iterations, longest, drops, patience }: MeasureOptions) => {
  const { info } = probe.executor
  const most = Math.min(info.maxRowsPerStep, longest)
  /** Rows of a chunk beside others that decode. */
  const room = Math.min(most, info.maxRowsPerStep - decodesBesideSelections)

  /** The middle one of repeated runs, one before them to warm up. */
  const repeated = <E, R>(once: Effect.Effect<TimedStep, E, R>) =>
    Effect.gen(function* () {
      yield* once
      const steps: Array<TimedStep> = []
      for (let i = 0; i < iterations; i++) steps.push(yield* once)
      return steps.toSorted((a, b) => a.micros - b.micros)[iterations >> 1]!
    })

  /** Prompts side by side, whole, in a step of their own. */
  const prompts = (count: number, rows: number) =>
    repeated(
      Effect.gen(function* () {
        for (let slot = 0; slot < count; slot++) {
          yield* probe.open(slot, rows, false)
          probe.item(slot, 0, rows)
        }
        const { load, deviceMicros } = yield* probe.run
        probe.close(Array.from({ length: count }, (_, slot) => slot))
        return { load, micros: deviceMicros }
      }),
    )

  const copy = Effect.gen(function* () {
    const { slabBytes, pageSize } = info.layout
    let rows = longest
    const slabsWanted = Math.min(copyBytes / slabBytes, probe.freeSlabs / 2)
    while (rows > pageSize && probe.slabsOf(rows, "dense") > slabsWanted) rows >>= 1
    const times: Array<number> = []
    let bytes = 0
    for (let i = 0; i <= iterations; i++) {
      yield* probe.open(0, longest, false)
      probe.reachAll(0, rows)
      yield* probe.run
      yield* probe.open(1, longest, false)
      bytes = 2 * slabBytes * probe.copy(0, 1)
      const { deviceMicros } = yield* probe.run
      probe.close([0, 1])
      if (i > 0) times.push(deviceMicros)
    }
    const micros = median(times)
    return micros > 0 ? { bytes, micros } : null
  })

  /** Whether a list that began at some device time has taken too much of it. */
  const isLate = (beganMicros: number) => probe.deviceMicros - beganMicros > patience

  const linear = Effect.gen(function* () {
    const began = probe.deviceMicros
    const steps: Array<TimedStep> = []
    const { powers, between } = promptRows(most)
    for (const rows of powers) steps.push(yield* prompts(1, rows))
    for (const rows of between) if (!isLate(began)) steps.push(yield* prompts(1, rows))
    return steps.toSorted((a, b) => a.load.rows[0]! - b.load.rows[0]!)
  })

  const items = Effect.gen(function* () {
    return info.slots < 8 || most < 512 ? null : yield* prompts(8, 64)
  })

  const attention = Effect.gen(function* () {
    const rows = Math.min(most, Math.max(64, 64 * Math.floor(longest / 16 / 64)))
    const chunks: Array<ReadonlyArray<TimedStep>> = []
    for (let i = 0; i < iterations; i++) {
      yield* probe.open(0, longest, false)
      const pass: Array<TimedStep> = []
      for (let at = 0; at + rows <= longest; at += rows) {
        probe.item(0, at, rows)
        const { load, deviceMicros } = yield* probe.run
        pass.push({ load, micros: deviceMicros })
      }
      probe.close([0])
      chunks.push(pass)
    }
    return chunks[0]!.map(({ load }, i) => ({ load, micros: median(chunks.map((pass) => pass[i]!.micros)) }))
  })

  /** Has so many requests with so much behind them decode together; further steps each add a row to all of them. */
  const start = (count: number, context: number, temperature: number) =>
    Effect.gen(function* () {
      const sampling = { temperature, topP: temperature > 0 ? 0.9 : 1 }
      const slots = Array.from({ length: count }, (_, slot) => slot)
      let rows = 0
      for (const slot of slots) {
        if (rows > 0 && rows + context > info.maxRowsPerStep) {
          yield* probe.run
          rows = 0
        }
        yield* probe.open(slot, context, false, { sampling: { ...sampling, seed: BigInt(slot) } })
        for (let at = 0; at < context; at += most) {
          if (at > 0) yield* probe.run
          probe.item(slot, at, Math.min(most, context - at))
        }
        probe.sample(slot)
        rows += context
      }
      yield* probe.run
      for (const slot of slots) probe.join(slot)
      let decoded = 0
      const grow = () => {
        decoded++
        for (const slot of slots) probe.reachAll(slot, context + decoded)
      }
      const end = Effect.suspend(() => {
        probe.close(slots, true)
        return probe.run
      })
      return { grow, end }
    })

  const decoding = (count: number, context: number, temperature: number) =>
    Effect.gen(function* () {
      const { grow, end } = yield* start(count, context, temperature)
      const steps = []
      for (let i = 0; i < decodeSteps.warmUp + decodeSteps.timed; i++) {
        grow()
        yield* probe.send
        if (i > 0) steps.push(yield* probe.answer)
      }
      steps.push(yield* probe.answer)
      yield* end
      const timed = steps.slice(decodeSteps.warmUp)
      const [device, wall] = [timed.map(({ deviceMicros }) => deviceMicros), timed.map(({ wallMicros }) => wallMicros)]
      const step: TimedStep = { load: timed[timed.length >> 1]!.load, micros: median(device) }
      return { step, hostMicros: Math.max(0, median(wall) - median(device)) }
    })

  const mixed = Effect.gen(function* () {
    const began = probe.deviceMicros
    const steps: Array<TimedStep> = []
    for (const decodes of beside.decodes) {
      if (isLate(began)) break
      if (info.slots <= decodes || decodes * probe.slabsOf(2 * contexts[0], "dense") > probe.freeSlabs / 2) break
      const { grow, end } = yield* start(decodes, contexts[0], 0)
      for (const rows of beside.rows.filter((all) => all > decodes && all <= most).map((all) => all - decodes)) {
        steps.push(
          yield* repeated(
            Effect.gen(function* () {
              grow()
              yield* probe.open(decodes, rows, false)
              probe.item(decodes, 0, rows)
              const { load, deviceMicros } = yield* probe.run
              probe.close([decodes])
              return { load, micros: deviceMicros }
            }),
          ),
        )
      }
      yield* end
    }
    return steps
  })

  const decode = Effect.gen(function* () {
    const began = probe.deviceMicros
    const steps: Array<TimedStep> = []
    let hostMicros = 0
    const fits = (count: number, context: number) =>
      count <= info.slots &&
      context + decodeSteps.warmUp + decodeSteps.timed <= longest &&
      count * probe.slabsOf(context + info.layout.pageSize, "dense") <= probe.freeSlabs
    const counts = decodeRows.filter((count) => fits(count, contexts[0]))
    for (const count of counts) {
      const isUsual = count >= usualRows.from && count <= usualRows.to
      for (const context of isUsual ? usualRows.contexts : contexts) {
        if (!fits(count, context) || (context > contexts[0] && isLate(began))) continue
        const { step, hostMicros: host } = yield* decoding(count, context, 0)
        steps.push(step)
        hostMicros = host
      }
    }
    const [count, context] = [counts.at(-1)!, contexts[0]]
    const greedy = steps.find(({ load }) => load.decodeRows === count)!
    const drawn = yield* decoding(count, context, 1)
    return { decode: steps, hostMicros, samplingMicros: Math.max(0, drawn.step.micros - greedy.micros) }
  })

  /** Prompts that drop, side by side and beside `decodes` slots that decode, each whole in one step: through all of their selections. */
  const droppingTogether = (count: number, rows: number, shareOfP: number, decodes = 0, grow = nobody.grow) =>
    repeated(
      Effect.gen(function* () {
        const slots = Array.from({ length: count }, (_, i) => decodes + i)
        grow()
        for (const slot of slots) {
          yield* probe.open(slot, rows, true, { shareOfP })
          probe.item(slot, 0, rows, true)
        }
        const { load, deviceMicros } = yield* probe.runThrough
        probe.close(slots)
        return { load, micros: deviceMicros }
      }),
    )

  const dropped = Effect.gen(function* () {
    const began = probe.deviceMicros
    const steps: Array<TimedStep> = []
    if (!drops) return steps
    const fits = (count: number, rows: number) =>
      count <= info.slots &&
      count * rows <= info.maxRowsPerStep &&
      count * probe.slabsOf(rows, "all segments") <= probe.freeSlabs
    const { rows: lengths, sharesOfP, together } = dropping
    const ofEach = Math.min(together.rows, 64 * Math.floor(most / together.prompts / 64))
    const { powers, between } = promptRows(Math.min(most, lengths.to))
    const single = [...powers, ...between].filter((rows) => rows >= lengths.from)
    const wanted = [...single.map((rows) => ({ count: 1, rows })), { count: together.prompts, rows: ofEach }]
    for (const { count, rows } of wanted) {
      for (const share of sharesOfP) {
        const isNeeded = count > 1 || rows === lengths.from
        if (fits(count, rows) && (isNeeded || !isLate(began))) steps.push(yield* droppingTogether(count, rows, share))
      }
    }
    const { decodes, rows: besideRows, shareOfP } = dropping.beside
    const fitting = besideRows.filter((rows) => rows + decodes <= most && fits(1, rows))
    const holds = decodes * probe.slabsOf(2 * contexts[0], "dense") <= probe.freeSlabs / 2
    if (info.slots <= decodes || !holds || fitting.length === 0 || isLate(began)) return steps
    const { grow, end } = yield* start(decodes, contexts[0], 0)
    for (const rows of fitting) steps.push(yield* droppingTogether(1, rows, shareOfP, decodes, grow))
    yield* end
    return steps
  })

  const selection = Effect.gen(function* () {
    const found: Array<OpsMeasurements["selection"][number]> = []
    if (!drops) return found
    const decodes = info.slots > decodesBesideSelections ? decodesBesideSelections : 0
    const lengths = [longest / 64, longest / 16, longest / 4].map((length) => 64 * Math.floor(length / 64))
    for (const length of new Set(lengths.map((rows) => Math.max(rows, 1024)))) {
      const pairs: Array<{ readonly plain: TimedStep; readonly chunk: TimedStep }> = []
      const { grow, end } = decodes === 0 ? nobody : yield* start(decodes, contexts[0], 0)
      const part = function* (at: number, rows: number) {
        grow()
        probe.item(decodes, at, rows)
        const { load, deviceMicros } = yield* probe.run
        return { load, micros: deviceMicros }
      }
      for (let i = 0; i <= Math.max(leastSelections, iterations); i++) {
        yield* probe.open(decodes, length, true)
        for (let at = 0; at < length - 128; at += room) yield* part(at, Math.min(room, length - 128 - at))
        const plain = yield* part(length - 128, 64)
        const chunk = yield* part(length - 64, 64)
        probe.close([decodes])
        if (i > 0) pairs.push({ plain, chunk })
      }
      yield* end
      const middle = (of: "plain" | "chunk"): TimedStep => ({
        load: pairs[pairs.length >> 1]![of].load,
        micros: median(pairs.map((pair) => pair[of].micros)),
      })
      found.push({ plain: middle("plain"), chunk: middle("chunk") })
    }
    return found
  })

  return { copy, linear, items, attention, decode, mixed, selection, dropped }
}

const median = (list: ReadonlyArray<number>): number => list.toSorted((a, b) => a - b)[list.length >> 1]!
