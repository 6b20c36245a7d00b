import { Executor, ExecutorError, type ExecutorInfo } from "@uniprefill/executor/contract/Executor"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { type KvLayout, type KvLayoutOptions, makeKvLayout } from "@uniprefill/model/KvLayout"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import { decodeResult, Encoder } from "@uniprefill/scheduler/Codec"
import { Deferred, Effect, Layer, type Scope } from "effect"
import { toNativeContent } from "./NativeContent.ts"
import { loadLibrary, type NativeKernels, type NativeModel, type NativeRunnerInfo } from "./NativeLibrary.ts"
import { toExecutorError } from "./NativeReason.ts"

export interface CpuOptions {
  /** A Hugging Face model directory; `spec` is what its config.json says. */
  readonly directory: string
  readonly spec: ModelSpec
  readonly schedule: DropSchedule
  /** The model that the schedule was made for, as its file says: 16 hexadecimal digits; another one is refused. */
  readonly scheduleFingerprint?: string | null | undefined
  /** Memory for K, V and carry rows: as many slabs as fit. Committed by the system as it is touched. */
  readonly memoryBytes: number
  /** Rows of a KV page. */
  readonly pageSize?: number | undefined
  readonly slots?: number | undefined
  readonly maxRowsPerStep?: number | undefined
  /** Longest prompt + output of a slot; by default what the model was made for. */
  readonly maxTokens?: number | undefined
  /** 0: one for each processor of this process. */
  readonly threads?: number | undefined
  readonly kernels?: NativeKernels | undefined
}

export const cpuDefaults = { pageSize: 128, slots: 64, maxRowsPerStep: 8192, threads: 0, kernels: "auto" } as const

/** K and V are bf16, the residual stream f32. */
export const cpuElementBytes = { kvElementBytes: 2, carryElementBytes: 4 } as const

/** Slabs that `bytes` hold under a layout; at least 0. */
export const slabsIn = (bytes: number, layout: KvLayout): number =>
  Math.min(0x7fff_ffff, Math.max(0, Math.floor(bytes / layout.slabBytes)))

/** The Executor over libuniprefill on this machine's processors; lives until the layer's scope closes. */
export const layerCpu = (options: CpuOptions): Layer.Layer<Executor, ExecutorError> =>
  Layer.effect(Executor, make(options))

const make = (options: CpuOptions): Effect.Effect<Executor["Service"], ExecutorError, Scope.Scope> =>
  Effect.gen(function* () {
    const { directory, spec, schedule } = options
    const { pageSize, slots, maxRowsPerStep, threads, kernels } = { ...cpuDefaults, ...defined(options) }
    const maxTokens = options.maxTokens ?? spec.maxPositions
    const starting = `start cpu executor for ${directory}`
    const layout = yield* attempt(starting, () => layoutOf(spec, schedule, { pageSize, ...cpuElementBytes }))
    const slabs = slabsIn(options.memoryBytes, layout)

    const library = yield* attempt("load native library", () => loadLibrary())
    const model = yield* Effect.acquireRelease(
      attempt(`load ${directory}`, () => library.open(directory)),
      (opened) => Effect.sync(() => opened.close()),
    )
    yield* attempt(`load ${directory}`, () => checkSpec(spec, model))
    yield* attempt(`load ${directory}`, () => checkFingerprint(options.scheduleFingerprint ?? null, model))
    const runner = yield* Effect.acquireRelease(
      attempt(starting, () =>
        model.createRunner({
          schedule: nativeSchedule(schedule),
          pageSize,
          slabs,
          slots,
          maxRowsPerStep,
          maxTokens,
          threads,
          kernels,
        }),
      ),
      (created) => Effect.sync(() => created.close()),
    )
    const described = runner.describe()
    yield* attempt(starting, () => checkLayout(layout, described))

    const info: ExecutorInfo = {
      device: `cpu (${described.kernels}, ${described.threads} thread${described.threads === 1 ? "" : "s"})`,
      layout,
      slabs,
      stateSlots: 0,
      slots,
      maxRowsPerStep,
      maxTokens,
      maxStepsInFlight: 2,
      tensorParallel: 1,
    }
    const encoder = new Encoder()
    const lost = yield* Deferred.make<never, ExecutorError>()
    /** Steps without an answer, oldest first. */
    const unanswered: Array<number> = []
    const wait = () =>
      Effect.suspend(() => {
        const stepId = unanswered.shift()
        return Effect.tryPromise({
          try: async () => decodeResult(await runner.wait()),
          catch: (error) => toExecutorError(`step ${stepId}`, error),
        })
      })
    return {
      info,
      putContent: (id, content) =>
        attempt(`put content ${id}`, () => runner.putContent(id, toNativeContent(content, schedule.dropLayers.length))),
      forgetContent: (id) => Effect.sync(() => runner.forgetContent(id)),
      enqueue: (plan) =>
        attempt(`enqueue step ${plan.stepId}`, () => {
          runner.enqueue(encoder.encodePlan(plan))
          unanswered.push(plan.stepId)
        }),
      // A native step cannot be interrupted: waiting for it keeps what it works on from going away under it.
      nextResult: Effect.tapError(wait(), (failure) =>
        Effect.gen(function* () {
          // Steps behind one that failed have failed with it.
          while (unanswered.length > 0) yield* Effect.ignore(wait())
          if (failure.reason === "DeviceLost") yield* Deferred.fail(lost, failure)
        }),
      ).pipe(Effect.uninterruptible),
      lost: Deferred.await(lost),
    }
  })

const attempt = <A>(operation: string, run: () => A): Effect.Effect<A, ExecutorError> =>
  Effect.try({ try: run, catch: (error) => toExecutorError(operation, error) })

/** The options that were given, without those that are undefined. */
const defined = <A extends object>(options: A): { [K in keyof A]?: Exclude<A[K], undefined> } =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as {
    [K in keyof A]?: Exclude<A[K], undefined>
  }

const invalid = (operation: string, detail: string) =>
  new ExecutorError({ reason: "InvalidArgument", operation, detail })

const layoutOf = (spec: ModelSpec, schedule: DropSchedule, options: KvLayoutOptions): KvLayout => {
  try {
    return makeKvLayout(spec, schedule, options)
  } catch (error) {
    throw invalid("lay out memory", (error as Error).message)
  }
}

const nativeSchedule = (schedule: DropSchedule) =>
  schedule.dropLayers.length === 0
    ? null
    : {
        dropLayers: Int32Array.from(schedule.dropLayers, (drop) => drop.layer),
        rule: schedule.rule,
        block: schedule.block,
        sink: schedule.sink,
        lastQ: schedule.lastQ,
        windowByOriginal: schedule.windowBy === "original",
      }

/** The two readers of config.json must agree. */
const checkSpec = (spec: ModelSpec, model: NativeModel): void => {
  const info = model.describe()
  const pairs: ReadonlyArray<readonly [field: string, given: number, read: number]> = [
    ["layers", spec.layers.length, info.layers],
    ["hiddenSize", spec.hiddenSize, info.hiddenSize],
    ["vocabSize", spec.vocabSize, info.vocabSize],
    ["heads", spec.heads, info.heads],
    ["kvHeads", spec.kvHeads, info.kvHeads],
    ["headDim", spec.headDim, info.headDim],
    ["maxPositions", spec.maxPositions, info.maxPositions],
  ]
  for (const [field, given, read] of pairs) {
    if (given !== read) throw invalid("check model", `the spec's ${field} is ${given}, the native library read ${read}`)
  }
}

/** Which layers may drop is a property of the weights: a schedule is good for the model that it was measured on. */
const checkFingerprint = (made: string | null, model: NativeModel): void => {
  const own = model.describe().fingerprint.toString(16).padStart(16, "0")
  if (made !== null && made !== own) {
    throw invalid("check drop schedule", `it was made for model ${made}, this one is ${own}`)
  }
}

/** The scheduler counts slabs by this layout and the library lays them out by its own: they must be the same. */
export const checkLayout = (layout: KvLayout, native: NativeRunnerInfo): void => {
  const shapeOf = (tables: ReadonlyArray<{ segment: number; kind: string; slabsPerPage: number }>) =>
    tables.map(({ segment, kind, slabsPerPage }) => `${kind} ${segment}: ${slabsPerPage}`).join(", ")
  const ours = `${layout.slabBytes} bytes, ${layout.layersPerSlab} layers a slab; ${shapeOf(layout.tables)}`
  const theirs = `${native.slabBytes} bytes, ${native.layersPerSlab} layers a slab; ${shapeOf(native.tables)}`
  if (ours !== theirs) {
    const detail = `the layout is (${ours}), the native library's is (${theirs})`
    throw new ExecutorError({ reason: "Internal", operation: "check layout", detail })
  }
}
