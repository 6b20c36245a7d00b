import { readFile } from "node:fs/promises"
import { type Calibration, decodeCalibration } from "@uniprefill/cost-model/Calibration"
import { Effect } from "effect"
import type { ModelSettings } from "../options/ModelOptions.ts"
import { UsageError } from "../cli/UsageError.ts"

/**
 * What steps on a CPU are planned with when --cost-model says nothing: assumed from what one core of a current server
 * processor does with bf16 weights, not measured on this machine. Too high a rate makes steps longer than their budget, too low a one makes more
 * of them; the tokens are the same.
 */
export const assumedCpu = (threads: number): Calibration => ({
  format: "uniprefill-calibration",
  version: 2,
  device: `cpu, ${threads} threads`,
  source: "assumed",
  note: "a current server core",
  gemm: [{ at: 1, teraFlops: 0.06 * threads }],
  attention: [{ at: 1, teraFlops: 0.03 * threads }],
  copyTeraBytes: 0.01,
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
  version: 2,
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

/** Whether an executor's steps run on a CUDA device, by what it calls its device. */
export const isCuda = (device: string): boolean => device.startsWith("cuda")

/** The calibration that --cost-model names, else the one for the executor's device. */
export const calibrationOf = (settings: ModelSettings, device: string): Effect.Effect<Calibration, UsageError> => {
  const file = settings["cost-model"]
  if (file !== undefined) return readCalibration(file)
  return Effect.succeed(isCuda(device) ? measuredCuda : assumedCpu(settings.threads))
}
