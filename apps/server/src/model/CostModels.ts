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

/** The calibration that --cost-model names, else the one assumed for this machine. */
export const calibrationOf = (settings: ModelSettings): Effect.Effect<Calibration, UsageError> => {
  const file = settings["cost-model"]
  return file === undefined ? Effect.succeed(assumedCpu(settings.threads)) : readCalibration(file)
}
