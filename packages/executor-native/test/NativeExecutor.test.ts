import { NodeServices } from "@effect/platform-node"
import { it } from "@effect/vitest"
import { Executor, type ExecutorError, greedy, type RequestContent } from "@uniprefill/executor/contract/Executor"
import { denseSchedule, type DropSchedule, pToQ32 } from "@uniprefill/model/DropSchedule"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import { keptRows } from "@uniprefill/model/Selection"
import { StepPlan } from "@uniprefill/scheduler/StepPlan"
import type { StepResult } from "@uniprefill/scheduler/StepResult"
import { Effect, Layer } from "effect"
import { expect } from "vitest"
import { type CpuOptions, layerCpu, layerReference } from "@uniprefill/executor-native/NativeExecutor"
import { type RandomModel, type Tensor, randomTensors, safetensors, smallModel, writeModel } from "./RandomModel.ts"

const schedule: DropSchedule = {
  ...denseSchedule,
  dropLayers: [
    { layer: 1, p: 0.5 },
    { layer: 2, p: 0.5 },
  ],
  sink: 64,
  lastQ: 64,
}

const executorOf = (directory: string, more: Partial<CpuOptions> = {}, layer = layerCpu) =>
  Layer.unwrap(
    Effect.map(Effect.orDie(loadModelDirectory(directory)), (model) =>
      layer({
        model,
        schedule,
        memoryBytes: 1 << 24,
        pageSize: 64,
        slots: 4,
        maxRowsPerStep: 2048,
        maxTokens: 2048,
        threads: 2,
        ...more,
      }),
    ),
  ).pipe(Layer.provide(NodeServices.layer))

/** Runs `use` over a fresh executor of the small model. */
const withExecutor = <A>(
  use: (executor: Executor["Service"]) => Effect.Effect<A, ExecutorError>,
  more: Partial<CpuOptions> = {},
  model: RandomModel = smallModel,
) =>
  Effect.gen(function* () {
    using directory = writeModel(model)
    return yield* Effect.flatMap(Executor, use).pipe(Effect.provide(executorOf(directory.path, more)))
  })

const prompt = (length: number) => Int32Array.from({ length }, (_, i) => (i * 37 + (i >> 3) * 11) % smallModel.vocab)

const content = (length: number, more: Partial<RequestContent> = {}): RequestContent => ({
  tokens: prompt(length),
  promptLength: length,
  pQ32: schedule.dropLayers.map((drop) => pToQ32(drop.p)),
  bitmaps: [],
  sampling: greedy,
  returnLogits: true,
  promptLogprobs: -1,
  ...more,
})

/** Grants every table of a slot room for `rows` rows, slabs from `first` on. */
const grantAll = (plan: StepPlan, executor: Executor["Service"], slot: number, rows: number, first = 0) => {
  const { tables, pageSize } = executor.info.layout
  for (const [table, { slabsPerPage }] of tables.entries()) {
    const count = Math.ceil(rows / pageSize) * slabsPerPage
    for (let i = 0; i < count; i++) plan.grants.push3(slot, table, first++)
  }
}

/** One step, from its plan to its result. */
const step = (executor: Executor["Service"], plan: StepPlan) =>
  Effect.andThen(executor.enqueue(plan), executor.nextResult)

/** Prefills slot 0 in one step, or segment by segment in chunks, then decodes. Logits of every output token. */
const serve = (executor: Executor["Service"], length: number, chunkRows: number, outputs: number) =>
  Effect.gen(function* () {
    yield* executor.putContent(1, content(length))
    const last = executor.info.layout.segments.length - 1
    const plan = new StepPlan()
    const logits: Array<Array<number>> = []
    let stepId = 1
    plan.clear(stepId)
    plan.opens.push2(0, 1)
    grantAll(plan, executor, 0, length + outputs)
    const run = Effect.gen(function* () {
      const result: StepResult = yield* step(executor, plan)
      expect(result.stepId).toBe(stepId)
      if (result.logits.length > 0) logits.push(result.logits.toArray().slice(2))
      plan.clear(++stepId)
      return result
    })
    if (chunkRows >= length) {
      plan.items.pushAll([0, 0, length, 0, last])
      plan.samples.push2(0, 0)
      yield* run
    } else {
      let rows = length
      for (let segment = 0; segment <= last; segment++) {
        for (let first = 0; first < rows; first += chunkRows) {
          const count = Math.min(chunkRows, rows - first)
          plan.items.pushAll([0, first, count, segment, segment])
          if (segment === last && first + count === rows) plan.samples.push2(0, 0)
          const { selections } = yield* run
          if (selections.length > 0) {
            const bitmap = Uint32Array.from(selections.toArray().slice(4))
            rows = keptRows(bitmap, { ...schedule, rows })
            break
          }
        }
      }
    }
    plan.joins.push2(0, -1)
    for (let i = 1; i < outputs; i++) yield* run
    return logits
  })

/** What an effect fails with; a defect when it succeeds. */
const failureOf = <A>(effect: Effect.Effect<A, ExecutorError>) => Effect.orDie(Effect.flip(effect))

it.effect("a prompt in one step and the same in chunks give the same bits", () =>
  Effect.gen(function* () {
    const whole = yield* withExecutor((executor) => serve(executor, 700, 2048, 4))
    expect(whole.length).toBe(4)
    expect(whole[0]!.length).toBe(smallModel.vocab)
    expect(yield* withExecutor((executor) => serve(executor, 700, 64, 4))).toEqual(whole)
    expect(yield* withExecutor((executor) => serve(executor, 700, 192, 4), { threads: 1, pageSize: 128 })).toEqual(
      whole,
    )
  }),
)

it.effect("eight bits are near 16, and the same in chunks", () =>
  Effect.gen(function* () {
    // Sink and last queries: nothing is dropped.
    const length = schedule.sink + schedule.lastQ
    const all = (options: Partial<CpuOptions>, chunk = 2048) =>
      Effect.map(
        withExecutor((executor) => serve(executor, length, chunk, 1), options),
        (logits) => logits.flat(),
      )
    const distance = (a: ReadonlyArray<number>, b: ReadonlyArray<number>) =>
      Math.hypot(...a.map((value, i) => value - b[i]!)) / Math.hypot(...b)
    const eight = yield* all({ quantization: "fp8" })
    expect(yield* all({ quantization: "fp8" }, 64)).toEqual(eight)
    const off = distance(yield* all({ quantization: "none" }), eight)
    // Rows of 32 are rounded coarsely; logits that have nothing to do with each other are 1.4 apart.
    expect(off).toBeGreaterThan(0.001)
    expect(off).toBeLessThan(0.6)
  }),
)

it.effect("a checkpoint in eight bits is the one in 16 that it stands for", () =>
  Effect.gen(function* () {
    const length = schedule.sink + schedule.lastQ
    const answers = (tensors: ReadonlyArray<Tensor>) =>
      Effect.gen(function* () {
        using directory = writeModel(smallModel, safetensors(tensors))
        return yield* Effect.flatMap(Executor, (executor) => serve(executor, length, 2048, 2)).pipe(
          Effect.provide(executorOf(directory.path)),
        )
      })
    // Values of 1/8 to 15 in e4m3, with a scale a row that bf16 holds exactly.
    const eight: Array<Tensor> = []
    const sixteen: Array<Tensor> = []
    for (const tensor of randomTensors(smallModel)) {
      const [rows, columns] = tensor.shape
      if (columns === undefined || !tensor.name.includes("proj")) {
        eight.push(tensor)
        sixteen.push(tensor)
        continue
      }
      const bits = Uint8Array.from({ length: rows! * columns }, (_, i) => ((i * 37) % 96) | (i % 3 === 0 ? 128 : 0))
      const scales = Float32Array.from({ length: rows! }, (_, row) => 2 ** -(5 + (row % 3)))
      const values = Float32Array.from(bits, (each, i) => {
        const exponent = (each >> 3) & 15
        const size = exponent === 0 ? (each & 7) * 2 ** -9 : (8 + (each & 7)) * 2 ** (exponent - 10)
        return (each < 128 ? size : -size) * scales[Math.floor(i / columns)]!
      })
      const words = new Uint16Array(values.buffer)
      eight.push({ ...tensor, dtype: "F8_E4M3", data: bits })
      eight.push({
        name: `${tensor.name}_scale`,
        dtype: "F32",
        shape: [rows!, 1],
        data: new Uint8Array(scales.buffer),
      })
      sixteen.push({ ...tensor, data: new Uint8Array(Uint16Array.from(values, (_, i) => words[2 * i + 1]!).buffer) })
    }
    expect(yield* answers(eight)).toEqual(yield* answers(sixteen))
  }),
)

it.effect("layouts of many shapes are those that the scheduler counts with", () =>
  Effect.gen(function* () {
    for (const model of [
      smallModel,
      { ...smallModel, hidden: 40 },
      { ...smallModel, kvHeads: 2, hidden: 128, layers: 6 },
      { ...smallModel, headDim: 32, layers: 5 },
    ]) {
      const info = yield* withExecutor((executor) => Effect.succeed(executor.info), {}, model)
      expect(info.slabs).toBe(Math.floor((1 << 24) / info.layout.slabBytes))
      expect(info.device).toMatch(/^cpu \((portable|avx2|avx512bf16), 2 threads\)$/)
    }
  }),
)

it.effect("a plan that does not hold together is InvalidPlan, and the next one has its number", () =>
  withExecutor((executor) =>
    Effect.gen(function* () {
      yield* executor.putContent(9, content(100))
      const plan = new StepPlan()
      plan.clear(1)
      plan.opens.push2(0, 9)
      plan.grants.push3(0, 0, executor.info.slabs)
      const error = yield* failureOf(step(executor, plan))
      expect(error.reason).toBe("InvalidPlan")
      expect(error.operation).toBe("step 1")
      expect(error.detail).toContain(`grants[0]: slab ${executor.info.slabs} of ${executor.info.slabs}`)
      expect((yield* serve(executor, 100, 2048, 2)).length).toBe(2)
    }),
  ),
)

it.effect("contents: ids taken, fields out of range", () =>
  withExecutor((executor) =>
    Effect.gen(function* () {
      const fault = (id: number, length: number, more: Partial<RequestContent> = {}) =>
        Effect.map(failureOf(executor.putContent(id, content(length, more))), (error) => {
          expect(error.reason).toBe("InvalidArgument")
          return error.message
        })
      yield* executor.putContent(1, content(10))
      expect(yield* fault(1, 10)).toContain("put content 1")
      expect(yield* fault(2, 10, { promptLength: 11 })).toContain("prompt_length is 11 of 10")
      expect(yield* fault(2, 10, { pQ32: [1n] })).toContain("pQ32: one value for each drop layer")
      expect(yield* fault(2, 10, { tokens: Int32Array.of(64), promptLength: 1 })).toContain(
        "tokens[0] is 64, the vocabulary has 64",
      )
      expect(yield* fault(2, 10, { sampling: { ...greedy, topP: 2 } })).toContain("top_p is 2")
      yield* executor.forgetContent(1)
      yield* executor.putContent(1, content(10))
    }),
  ),
)

it.effect("a step leaves the event loop free", () =>
  withExecutor((executor) =>
    Effect.gen(function* () {
      yield* executor.putContent(1, content(2000))
      const plan = new StepPlan()
      plan.clear(1)
      plan.opens.push2(0, 1)
      grantAll(plan, executor, 0, 2000)
      plan.items.pushAll([0, 0, 2000, 0, 2])
      plan.samples.push2(0, 0)
      let turns = 0
      let running = true
      const count = () => {
        turns++
        if (running) setImmediate(count)
      }
      setImmediate(count)
      yield* step(executor, plan)
      running = false
      expect(turns).toBeGreaterThan(10)
    }),
  ),
)

it.effect("two ranks have half of the heads, the carry and the memory each, and give the bits of one", () =>
  Effect.gen(function* () {
    const both = { ...smallModel, kvHeads: 2 }
    const alone = yield* withExecutor((executor) => Effect.succeed(executor.info), {}, both)
    const shared = yield* withExecutor((executor) => Effect.succeed(executor.info), { tensorParallel: 2 }, both)
    expect(shared.tensorParallel).toBe(2)
    expect(shared.device).toMatch(/^cpu \(.*, 1 thread\) × 2$/)
    expect(shared.layout).toEqual({ ...alone.layout, slabBytes: alone.layout.slabBytes / 2 })
    expect(shared.slabs).toBe(alone.slabs)
    expect(shared.ranks).toEqual([
      { device: "cpu", weightBytes: null },
      { device: "cpu", weightBytes: null },
    ])
    for (const model of [smallModel, both]) {
      const one = yield* withExecutor((executor) => serve(executor, 700, 64, 4), {}, model)
      expect(yield* withExecutor((executor) => serve(executor, 700, 64, 4), { tensorParallel: 2 }, model)).toEqual(one)
    }
  }),
)

it.effect("a model that the ranks cannot share is refused with the numbers", () =>
  Effect.gen(function* () {
    const whole = safetensors(randomTensors(smallModel))
    const refused = yield* startFailure(whole, { tensorParallel: 4 })
    expect(refused.reason).toBe("UnsupportedModel")
    expect(refused.detail).toBe("heads 2 cannot be split into 4 equal parts")
    for (const tensorParallel of [0, 1.5]) {
      expect((yield* startFailure(whole, { tensorParallel })).detail).toBe(`the number of ranks is ${tensorParallel}`)
    }
    expect((yield* startFailure(whole, { tensorParallel: 2 }, layerReference)).detail).toContain(
      "the reference has one rank, tensor_parallel_size is 2",
    )
  }),
)

const startFailure = (weights: Uint8Array, more: Partial<CpuOptions> = {}, layer = layerCpu) =>
  Effect.gen(function* () {
    using directory = writeModel(smallModel, weights)
    return yield* failureOf(Effect.provide(Effect.asVoid(Executor), executorOf(directory.path, more, layer)))
  })

it.effect("bad model files and options say which and why", () =>
  Effect.gen(function* () {
    const tensors = randomTensors(smallModel)
    const whole = safetensors(tensors)
    const truncated = yield* startFailure(whole.subarray(0, whole.length - 5))
    expect(truncated.reason).toBe("CorruptFile")
    expect(truncated.detail).toContain(`ends at byte ${whole.length} of a file of ${whole.length - 5} bytes`)

    const floats = { ...tensors[0]!, dtype: "F32", shape: [smallModel.vocab / 2, smallModel.hidden] }
    const dtype = yield* startFailure(safetensors([floats, ...tensors.slice(1)]))
    expect(dtype.reason).toBe("UnsupportedDtype")
    expect(dtype.detail).toContain("model.embed_tokens.weight: dtype is F32, supported: BF16")

    const missing = yield* startFailure(safetensors(tensors.slice(1)))
    expect(missing.reason).toBe("CorruptFile")
    expect(missing.detail).toContain("model.embed_tokens.weight is missing")

    expect((yield* startFailure(whole, { memoryBytes: 1000 })).detail).toContain("slabs is 0")
    expect((yield* startFailure(whole, { pageSize: 100 })).detail).toContain("multiple of 64, got 100")
    expect((yield* startFailure(whole, { maxTokens: 5000 })).detail).toContain(
      "max_tokens is 5000, an integer from 1 to 4096",
    )
    for (const prefillSparsity of [0, 1, -0.5, Number.NaN, 1e-12, 1 - 1e-12])
      expect((yield* startFailure(whole, { prefillSparsity })).detail).toContain(
        `the share of attention is ${prefillSparsity}, from 2⁻³² to 1 − 2⁻³² was expected`,
      )
    expect((yield* startFailure(whole, { prefillSparsity: 0.5, pageSize: 64 })).detail).toContain(
      "a page has 64 rows, a multiple of 128 was expected",
    )
  }),
)

it.effect("a schedule made for another model is refused, naming both", () =>
  Effect.gen(function* () {
    const whole = safetensors(randomTensors(smallModel))
    const refused = yield* startFailure(whole, { scheduleFingerprint: "0123456789abcdef" })
    expect(refused.reason).toBe("InvalidArgument")
    const own = /made for model 0123456789abcdef, this one is ([0-9a-f]{16})$/.exec(refused.detail)?.[1]
    expect(own).toBeDefined()
    using directory = writeModel(smallModel, whole)
    yield* Effect.provide(Effect.asVoid(Executor), executorOf(directory.path, { scheduleFingerprint: own }))
  }),
)
