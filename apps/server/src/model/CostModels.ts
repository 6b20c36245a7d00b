import { readFile } from "node:fs/promises"
import { type Calibration, decodeCalibration, type LinkCurve } from "@uniprefill/cost-model/Calibration"
import { costModelOf } from "@uniprefill/cost-model/CostModelOf"
import type { DeviceCostModel } from "@uniprefill/cost-model/DeviceCostModel"
import { linkBetween, nvlink4 } from "@uniprefill/cost-model/Links"
import type { ModelShape } from "@uniprefill/cost-model/ModelShape"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import type { KvLayout } from "@uniprefill/model/KvLayout"
import { Effect } from "effect"
import type { ModelSettings } from "../options/ModelOptions.ts"
import { UsageError } from "../cli/UsageError.ts"

/** What copies reach on a CPU, 10⁹ bytes per second. */
const cpuGigaBytes = 10

/**
 * What steps of one of `ranks` ranks on a CPU are planned with when --cost-model says nothing: assumed from what one core of a
 * current server processor does with bf16 weights, not measured on this machine. Too high a rate makes steps longer than their
 * budget, too low a one makes more of them; the tokens are the same. Ranks share the threads and the memory.
 */
export const assumedCpu = (threads: number, ranks = 1): Calibration => ({
  format: "uniprefill-calibration",
  version: 3,
  device: `cpu, ${threads} threads`,
  source: "assumed",
  note: "a current server core",
  gemm: [{ at: 1, teraFlops: (0.06 * threads) / ranks }],
  attention: [{ at: 1, teraFlops: (0.03 * threads) / ranks }],
  copyTeraBytes: cpuGigaBytes / 1000 / ranks,
  stepMicros: 100,
  itemMicros: 20,
})

/** Reads the calibration of --cost-model. Fails with a {@link UsageError} that names the file and the field. */
export const readCalibration = (file: string): Effect.Effect<Calibration, UsageError> =>
  Effect.tryPromise({
    try: async () => decodeCalibration(JSON.parse(await readFile(file, "utf8"))),
    catch: (cause) => new UsageError({ message: `--cost-model ${file}: ${(cause as Error).message}` }),
  })

/**
 * What steps on a CUDA device are planned with when --cost-model says nothing. The matrix products and the attention of one
 * Llama-3.1-8B layer, and the copy rate, as one H100 had them; a step of one row takes 1.5 ms more than reading its weights.
 */
export const measuredCuda: Calibration = {
  format: "uniprefill-calibration",
  version: 3,
  device: "NVIDIA H100 SXM",
  source: "measured",
  note: "Matrix products as the sum of qkv, o, gate+up and down; predictions for fewer than 8,192 rows extrapolate.",
  gemm: [
    { at: 8192, teraFlops: 721 },
    { at: 16_384, teraFlops: 752 },
  ],
  attention: [
    { at: 8192, teraFlops: 662 },
    { at: 32_768, teraFlops: 633 },
    { at: 131_072, teraFlops: 619 },
  ],
  copyTeraBytes: 2.96,
  stepMicros: 1500,
  itemMicros: 20,
}

/**
 * The same with matrices in eight bits: the products alone, as one H100 had cuBLAS's for the four of a Llama-3.1-8B layer with a scale
 * for every row; rounding, which takes a few percent more, is left to the correction of predictions.
 */
export const measuredCudaFp8: Calibration = {
  ...measuredCuda,
  note: "Matrix products alone, in fp8, as the sum of qkv, o, gate+up and down; predictions for fewer than 8,192 rows extrapolate.",
  gemm: [
    { at: 8192, teraFlops: 1370 },
    { at: 16_384, teraFlops: 1336 },
  ],
}

/** What steps read and multiply; K and V are told by the executor's layout. */
export const modelShape = (
  { quantization }: Pick<ModelSettings, "quantization">,
  spec: ModelSpec,
  kvBytes = 2,
): ModelShape => ({
  spec,
  weightBytes: 2,
  matrixBytes: quantization === "fp8" ? 1 : 2,
  kvBytes,
})

/** Whether an executor's steps run on a CUDA device, by what it calls its device. */
export const isCuda = (device: string): boolean => device.startsWith("cuda")

/** The calibration of one rank: that --cost-model names, else the one for the executor's device. */
export const calibrationOf = (settings: ModelSettings, device: string): Effect.Effect<Calibration, UsageError> => {
  const file = settings["cost-model"]
  if (file !== undefined)
    return Effect.tap(readCalibration(file), ({ fittedTo }) => {
      const measured = fittedTo === undefined ? settings.quantization : (fittedTo.quantization ?? "none")
      if (measured === settings.quantization) return Effect.void
      return Effect.logWarning(
        `--cost-model ${file} was measured with --quantization ${measured}, not ${settings.quantization}`,
      )
    })
  const assumed = assumedCpu(settings.threads, settings["tensor-parallel-size"])
  const measured = settings.quantization === "fp8" ? measuredCudaFp8 : measuredCuda
  return Effect.succeed(isCuda(device) ? measured : assumed)
}

/** Bandwidth between NVLink 4 devices, each direction, 10⁹ bytes per second. */
const nvlinkGigaBytes = 450

/** All-reduces: the calibration's, else those measured over NVLink, else assumed. Null for one rank. */
export const linkOf = (settings: ModelSettings, { links = [] }: Calibration, device: string): LinkCurve | null => {
  const ranks = settings["tensor-parallel-size"]
  // A simulated executor is a CPU unless a cost model of its own says what it is.
  const isCpu = device.startsWith("cpu") || (!isCuda(device) && settings["cost-model"] === undefined)
  return isCpu
    ? linkBetween(links, cpuGigaBytes, "peer-to-peer", ranks)
    : linkBetween([...links, ...nvlink4], nvlinkGigaBytes, "peer-to-peer", ranks)
}

export interface PlannedModel {
  readonly shape: ModelShape
  /** Of one rank. */
  readonly layout: KvLayout
  readonly lastQ: number
  readonly maxRowsPerStep: number
}

/** What the steps of an executor are predicted to take, by what it calls its device; made of the layout once that is known. */
export const predictionFor = (
  settings: ModelSettings,
  device: string,
): Effect.Effect<(model: PlannedModel) => DeviceCostModel, UsageError> =>
  Effect.map(calibrationOf(settings, device), (calibration) => {
    const tensorParallel = settings["tensor-parallel-size"]
    const link = linkOf(settings, calibration, device)
    return (model) => costModelOf({ ...model, calibration, tensorParallel, link })
  })
