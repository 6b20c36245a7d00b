import { Executor, ExecutorError, type ExecutorInfo } from "@uniprefill/executor/contract/Executor"
import { executorLayout } from "@uniprefill/executor/contract/ExecutorLayout"
import { type DropSchedule, pToQ32 } from "@uniprefill/model/DropSchedule"
import { type KvLayout, layoutJson } from "@uniprefill/model/KvLayout"
import type { ModelDirectory } from "@uniprefill/model/ModelDirectory"
import type { Quantization } from "@uniprefill/model/EightBitMatrices"
import { modelTable } from "@uniprefill/model/ModelTable"
import { decodeResult, Encoder } from "@uniprefill/scheduler/Codec"
import { Deferred, Effect, Layer, type Scope } from "effect"
import type { KeepProfile } from "./KeepProfile.ts"
import { toNativeContent } from "./NativeContent.ts"
import {
  loadLibrary,
  type NativeDevice,
  type NativeKernels,
  type NativeModel,
  type NativeRunner,
} from "./NativeLibrary.ts"
import { toExecutorError } from "./NativeReason.ts"

export interface NativeOptions {
  readonly model: ModelDirectory
  readonly schedule: DropSchedule
  /** The model that the schedule was made for, as its file says: 16 hexadecimal digits; another one is refused. */
  readonly scheduleFingerprint?: string | null | undefined
  /** Rows of a KV page. */
  readonly pageSize?: number | undefined
  readonly slots?: number | undefined
  /** Recurrent states: one for each slot, and one for each snapshot that the prefix cache may hold. */
  readonly stateSlots?: number | undefined
  readonly maxRowsPerStep?: number | undefined
  /** Longest prompt + output of a slot; by default what the model was made for. */
  readonly maxTokens?: number | undefined
  /** Replaces what selections choose: for models with random weights. */
  readonly keepProfile?: KeepProfile | null | undefined
  /**
   * Ranks that share heads and inner widths; 1 by default. A model that they cannot share equally is an `UnsupportedModel`. On
   * the CPU 1, 2 and 4 give the same bits, but for `fp8`: what ranks round lies in parts of rows.
   */
  readonly tensorParallel?: number | undefined
  /** `none` by default. With `fp8`, the CPU computes what a device would: rounded values, no faster. */
  readonly quantization?: Quantization | undefined
  /**
   * The share, between 0 and 1, of their attention that rows of prompts read keys for, in layers of full attention but
   * drop layers: 128 rows read the blocks of 64 keys that every 16th of them attends to most. Prompts served dense read
   * all keys at the schedule's drop layers, too. All keys where nothing is said. Pages are of a multiple of 128 rows then.
   */
  readonly prefillSparsity?: number | undefined
}

/** Rows that read the same blocks of keys; a page has a multiple of them where keys are left out. */
export const sparseRows = 128

export interface CpuOptions extends NativeOptions {
  /** Memory for K, V and carry rows, of all ranks: as many slabs as fit. Committed by the system as it is touched. */
  readonly memoryBytes: number
  /** Of all ranks, at least one each. 0: one for each processor of this process. */
  readonly threads?: number | undefined
  readonly kernels?: NativeKernels | undefined
}

export interface CudaOptions extends NativeOptions {
  /** Share of the device's memory to use, weights and workspace included. */
  readonly memoryFraction?: number | undefined
  /** Memory for K, V and carry rows, of all ranks; by default what is left of the share. */
  readonly memoryBytes?: number | undefined
  /** Of rank 0; the others take the devices that follow. */
  readonly deviceIndex?: number | undefined
}

export const cpuDefaults = {
  pageSize: 128,
  slots: 64,
  maxRowsPerStep: 8192,
  threads: 0,
  kernels: "auto",
  tensorParallel: 1,
} as const
export const cudaDefaults = {
  pageSize: 128,
  slots: 256,
  maxRowsPerStep: 16_384,
  memoryFraction: 0.9,
  deviceIndex: 0,
} as const

/** K and V are bf16, the residual stream f32. */
export const cpuElementBytes = { kvElementBytes: 2, carryElementBytes: 4 } as const
/** Both are bf16. */
export const cudaElementBytes = { kvElementBytes: 2, carryElementBytes: 2 } as const

/** Slabs that `bytes` hold under a layout; at least 0. */
export const slabsIn = (bytes: number, layout: KvLayout): number =>
  Math.min(0x7fff_ffff, Math.max(0, Math.floor(bytes / layout.slabBytes)))

/** The Executor over libuniprefill on this machine's processors; lives until the layer's scope closes. */
export const layerCpu = (options: CpuOptions): Layer.Layer<Executor, ExecutorError> =>
  Layer.effect(Executor, make("cpu", options))

/** The same in double precision by plain loops: slow, the oracle of the others. It has one rank; more are refused. */
export const layerReference = (options: CpuOptions): Layer.Layer<Executor, ExecutorError> =>
  Layer.effect(Executor, make("reference", options))

/** The Executor over a CUDA device, or as many as there are ranks; lives until the layer's scope closes. */
export const layerCuda = (options: CudaOptions): Layer.Layer<Executor, ExecutorError> =>
  Layer.effect(Executor, make("cuda", options))

const make = (
  device: NativeDevice,
  options: CpuOptions | CudaOptions,
): Effect.Effect<Executor["Service"], ExecutorError, Scope.Scope> =>
  Effect.gen(function* () {
    const { model: source, schedule } = options
    const defaults = device === "cuda" ? cudaDefaults : cpuDefaults
    const given = { ...cpuDefaults, ...cudaDefaults, ...defaults, ...defined(options) }
    const { pageSize, slots, maxRowsPerStep, tensorParallel } = given
    const maxTokens = options.maxTokens ?? source.spec.maxPositions
    const starting = `start ${device} executor for ${source.directory}`
    const elements = device === "cuda" ? cudaElementBytes : cpuElementBytes
    const layout = yield* attempt(starting, () =>
      executorLayout(source.spec, schedule, tensorParallel, { pageSize, ...elements }),
    )
    const { memoryBytes, prefillSparsity } = options
    yield* checkSparsity(prefillSparsity, pageSize)
    const slabs = memoryBytes === undefined ? 0 : slabsIn(memoryBytes / tensorParallel, layout)
    const stateSlots = layout.stateSlotBytes === 0 ? 0 : (options.stateSlots ?? 2 * slots)

    const library = yield* attempt("load native library", () => loadLibrary())
    const model = yield* Effect.acquireRelease(
      attempt(`load ${source.directory}`, () => library.open(modelTable(source, options.quantization))),
      (opened) => Effect.sync(() => opened.close()),
    )
    yield* attempt(`load ${source.directory}`, () => checkFingerprint(options.scheduleFingerprint ?? null, model))
    const runner = yield* Effect.acquireRelease(
      attempt(starting, () =>
        model.createRunner({
          device,
          schedule: nativeSchedule(schedule),
          layout: layoutJson(layout),
          slabs,
          slots,
          stateSlots,
          maxRowsPerStep,
          maxTokens,
          threads: given.threads,
          kernels: given.kernels,
          memoryFraction: given.memoryFraction,
          deviceIndex: given.deviceIndex,
          tensorParallelSize: tensorParallel,
          prefillPQ32: prefillSparsity === undefined ? 0n : pToQ32(prefillSparsity),
        }),
      ),
      (created) => Effect.sync(() => created.close()),
    )
    if (prefillSparsity !== undefined) yield* Effect.addFinalizer(() => logKeysRead(runner))
    const described = runner.describe()
    const info: ExecutorInfo = {
      device: described.device,
      layout,
      slabs: described.slabs,
      stateSlots,
      slots,
      ...(prefillSparsity === undefined ? {} : { chunkRows: sparseRows }),
      maxRowsPerStep,
      maxTokens,
      maxStepsInFlight: 2,
      tensorParallel,
      // Ranks have equal shares.
      ranks: Array.from({ length: tensorParallel }, (_, rank) => ({
        device: device === "cuda" ? `cuda:${given.deviceIndex + rank}` : device,
        weightBytes: described.weightBytes > 0 ? described.weightBytes : null,
      })),
    }
    const lost = yield* Deferred.make<never, ExecutorError>()
    const encoder = new Encoder()
    /** Steps without an answer, oldest first. */
    const unanswered: Array<number> = []
    return {
      info,
      putContent: (id, content) =>
        attempt(`put content ${id}`, () =>
          runner.putContent(id, toNativeContent(content, schedule, options.keepProfile ?? null)),
        ),
      forgetContent: (id) => Effect.sync(() => runner.forgetContent(id)),
      enqueue: (plan) =>
        attempt(`enqueue step ${plan.stepId}`, () => {
          runner.enqueue(encoder.encodePlan(plan))
          unanswered.push(plan.stepId)
        }),
      // A native step cannot be interrupted: waiting for it keeps what it works on from going away under it.
      nextResult: Effect.gen(function* () {
        const stepId = unanswered.shift()
        return yield* Effect.tryPromise({
          try: async () => decodeResult(await runner.wait()),
          catch: (error) => toExecutorError(`step ${stepId}`, error),
        })
      }).pipe(
        Effect.tapError((failure) =>
          Effect.gen(function* () {
            // Steps behind one that failed have failed with it.
            while (unanswered.shift() !== undefined) yield* Effect.ignore(Effect.tryPromise(() => runner.wait()))
            if (failure.reason === "DeviceLost") yield* Deferred.fail(lost, failure)
          }),
        ),
        Effect.uninterruptible,
      ),
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

/** A share of 1 leaves nothing out: that is what saying nothing does. */
const checkSparsity = (share: number | undefined, pageSize: number): Effect.Effect<void, ExecutorError> => {
  if (share === undefined) return Effect.void
  const operation = "check prefill sparsity"
  if (!(share > 0 && pToQ32(share) > 0n && share < 1 && pToQ32(share) < 0x1_0000_0000n))
    return Effect.fail(invalid(operation, `the share of attention is ${share}, from 2⁻³² to 1 − 2⁻³² was expected`))
  if (pageSize % sparseRows !== 0)
    return Effect.fail(invalid(operation, `a page has ${pageSize} rows, a multiple of ${sparseRows} was expected`))
  return Effect.void
}

const logKeysRead = (runner: NativeRunner) =>
  Effect.suspend(() => {
    const { keyBlocksRead, keyBlocksSeen } = runner.describe()
    if (keyBlocksSeen === 0) return Effect.void
    return Effect.logInfo("prefill left out keys, and read a share of them").pipe(
      Effect.annotateLogs({ share: (keyBlocksRead / keyBlocksSeen).toFixed(3) }),
    )
  })

const invalid = (operation: string, detail: string) =>
  new ExecutorError({ reason: "InvalidArgument", operation, detail })

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

/** Names a model's weights, as a schedule file has it: 16 hexadecimal digits. */
export const fingerprintOf = (source: ModelDirectory): Effect.Effect<string, ExecutorError> =>
  attempt(`load ${source.directory}`, () => {
    const model = loadLibrary().open(modelTable(source))
    try {
      return written(model)
    } finally {
      model.close()
    }
  })

const written = (model: NativeModel): string => model.describe().fingerprint.toString(16).padStart(16, "0")

/** Which layers may drop is a property of the weights: a schedule is good for the model that it was measured on. */
const checkFingerprint = (made: string | null, model: NativeModel): void => {
  const own = written(model)
  if (made !== null && made !== own) {
    throw invalid("check drop schedule", `it was made for model ${made}, this one is ${own}`)
  }
}
