import { existsSync } from "node:fs"
import { createRequire } from "node:module"
import { dirname, join, sep } from "node:path"
import { fileURLToPath } from "node:url"
import { ExecutorError } from "@uniprefill/executor/contract/Executor"

/** The addon of native/src/addon, as it is. Its functions throw {@link NativeFailure}, or TypeError for wrong types. */
export interface NativeLibrary {
  readonly abiVersion: number
  /** Maps the weights that a model table names and checks them. */
  readonly open: (table: string) => NativeModel
}

export interface NativeModel {
  readonly describe: () => NativeModelInfo
  /** Brings the weights into the device's own form; takes as long as copying them. */
  readonly createRunner: (options: NativeRunnerOptions) => NativeRunner
  readonly close: () => void
}

export interface NativeModelInfo {
  readonly layers: number
  readonly hiddenSize: number
  readonly vocabSize: number
  readonly maxPositions: number
  readonly fingerprint: bigint
}

export type NativeDevice = "cpu" | "reference" | "cuda"

export type NativeKernels = "auto" | "portable" | "avx2" | "avx512bf16"

export interface NativeRunnerOptions {
  readonly device: NativeDevice
  readonly schedule: {
    readonly dropLayers: Int32Array
    readonly rule: "exclusive" | "reference"
    readonly block: number
    readonly sink: number
    readonly lastQ: number
    readonly windowByOriginal: boolean
  } | null
  /** The KvLayout as JSON. */
  readonly layout: string
  /** With `cuda`: 0 for as many as fit. */
  readonly slabs: number
  readonly slots: number
  readonly stateSlots: number
  readonly maxRowsPerStep: number
  readonly maxTokens: number
  readonly threads: number
  readonly kernels: NativeKernels
  /** Of the device's memory, with `cuda`. */
  readonly memoryFraction: number
  /** Of the first rank; the others take the devices that follow. */
  readonly deviceIndex: number
  /** Ranks that share the model; `layout` and `slabs` are of one of them. */
  readonly tensorParallelSize: number
  /** Share of their attention that rows of prompts read keys for, Q32; 0n: all keys. */
  readonly prefillPQ32: bigint
}

/** Steps run on a thread of the runner's own, in the order in which they are enqueued. */
export interface NativeRunner {
  readonly describe: () => NativeRunnerInfo
  readonly putContent: (id: number, content: NativeContent) => void
  readonly forgetContent: (id: number) => void
  /** Copies the plan's bytes before it returns. */
  readonly enqueue: (plan: Uint8Array) => void
  /** The result of the oldest step not waited for; one call at a time. */
  readonly wait: () => Promise<Uint8Array>
  readonly close: () => void
}

export interface NativeRunnerInfo {
  /** `cpu (avx512bf16, 2 threads)` */
  readonly device: string
  /** Of every rank. */
  readonly slabs: number
  /** On the device, of rank 0, as what follows; 0 where they are not counted. */
  readonly weightBytes: number
  readonly workspaceBytes: number
  readonly freeBytes: number
  /** Blocks of keys that rows of prompts have read where they leave out some, and would have read. */
  readonly keyBlocksRead: number
  readonly keyBlocksSeen: number
}

export interface NativeContent {
  readonly tokens: Int32Array
  readonly promptLength: number
  readonly dropLayers: number
  readonly pQ32: BigUint64Array | null
  readonly bitmaps: ReadonlyArray<Uint32Array>
  /** Score where bitmaps decide, too: for the time that it takes. */
  readonly scoreDecided: boolean
  readonly returnLogits: boolean
  readonly promptLogprobs: number
  readonly sampling: {
    readonly temperature: number
    readonly topK: number
    readonly topP: number
    readonly minP: number
    readonly frequencyPenalty: number
    readonly presencePenalty: number
    readonly repetitionPenalty: number
    readonly seed: bigint
    readonly minTokens: number
    readonly logprobs: number
    readonly stopTokens: Int32Array
    readonly biasTokens: Int32Array
    readonly biasValues: Float32Array
    readonly allowedTokens: Int32Array | null
  }
}

/** What a failing call of the library throws: up_error with the status's name. */
export interface NativeFailure extends Error {
  readonly status: string
  readonly operation: string
  readonly phase: string
  readonly detail: string
}

/** UP_ABI_VERSION of the header that these types describe. */
export const abiVersion = 2

/** What the addon must have been built for. */
export interface NativePlatform {
  /** `process.platform` */
  readonly os: string
  /** `process.arch` */
  readonly cpu: string
  /** Of Linux: `glibc` or `musl`. */
  readonly libc: string
}

const here = dirname(fileURLToPath(import.meta.url))

/** Installed packages lie in `node_modules`; the repository has what it built. */
const isInstalled = here.split(sep).includes("node_modules")

const prebuiltPackage = "@uniprefill/native-linux-x64"

const libraryFailure = (detail: string): ExecutorError =>
  new ExecutorError({ reason: "Internal", operation: "load native library", detail })

/** What to do where there is no native library, by platform: one line. */
export const adviceFor = ({ os, cpu, libc }: NativePlatform): string => {
  if (os !== "linux" || cpu !== "x64") {
    return `there is none for ${os}-${cpu}: models run on Linux on x86-64, in a container for example; here --executor sim answers without one`
  }
  return libc === "glibc"
    ? `${prebuiltPackage} is not installed: install again without --omit=optional`
    : `${prebuiltPackage} is for glibc, this system has ${libc}: build it from the repository with \`npm run build\`, and name native/build/uniprefill.node with UNIPREFILL_NATIVE`
}

const thisPlatform = (): NativePlatform => {
  const report = process.report as typeof process.report & { excludeNetwork: boolean }
  report.excludeNetwork = true
  const { header } = report.getReport() as { readonly header: { readonly glibcVersionRuntime?: string } }
  return {
    os: process.platform,
    cpu: process.arch,
    libc: header.glibcVersionRuntime === undefined ? "musl" : "glibc",
  }
}

/**
 * The addon's file: UNIPREFILL_NATIVE, or the one in the prebuilt package, or in a checkout of the repository what
 * `npm run build` leaves in native/build. Throws ExecutorError with reason Internal where there is none for this platform.
 */
export const libraryPath = (environment: { readonly UNIPREFILL_NATIVE?: string | undefined } = process.env): string => {
  if (environment.UNIPREFILL_NATIVE !== undefined) return environment.UNIPREFILL_NATIVE
  if (!isInstalled) return join(here, "../../../native/build/uniprefill.node")
  try {
    return createRequire(import.meta.url).resolve(`${prebuiltPackage}/uniprefill.node`)
  } catch {
    throw libraryFailure(adviceFor(thisPlatform()))
  }
}

/** Loads the addon once a process. Throws ExecutorError with reason Internal, saying what to do where it is missing or too old. */
export const loadLibrary = (path: string = libraryPath()): NativeLibrary => {
  const failure = (detail: string) => libraryFailure(`${path}: ${detail}`)
  if (!existsSync(path)) {
    throw failure("no such file; build it with `node native/build.mjs`, or name it with UNIPREFILL_NATIVE")
  }
  // Threads of a parallel region that has ended spin for some 20 µs, as the next one mostly begins by then and waking a sleeper
  // costs more, and sleep after that, as spinning takes a core from whoever needs one.
  process.env["OMP_WAIT_POLICY"] ??= "passive"
  process.env["GOMP_SPINCOUNT"] ??= "2000"
  let library: NativeLibrary
  try {
    library = createRequire(import.meta.url)(path) as NativeLibrary
  } catch (error) {
    // The loader's message begins with the file, and names the version of glibc or libstdc++ that is missing.
    const detail = error instanceof Error ? error.message : String(error)
    throw failure(detail.startsWith(`${path}: `) ? detail.slice(path.length + 2) : detail)
  }
  if (library.abiVersion !== abiVersion) {
    const { abiVersion: found } = library
    throw failure(
      `its ABI version is ${found}, this package needs ${abiVersion}: ` +
        `${found < abiVersion ? "build or install the library" : "install the packages"} again, of the same version`,
    )
  }
  return library
}
