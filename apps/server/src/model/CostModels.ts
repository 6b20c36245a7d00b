import { readFile } from "node:fs/promises"
import { type CostTable, decodeCostTable } from "@uniprefill/cost-model/CostTable"
import { Effect } from "effect"
import type { ModelSettings } from "../options/ModelOptions.ts"
import { UsageError } from "../cli/UsageError.ts"

/**
 * What steps on a CPU are planned with when --cost-model says nothing: assumed from what one core of a current server
 * processor does with bf16 weights, not measured on this machine. Too high a rate makes steps longer than their budget, too low a one makes more
 * of them; the tokens are the same.
 */
export const assumedCpu = (threads: number): CostTable => ({
  format: "uniprefill-cost-model",
  version: 1,
  device: `cpu, ${threads} threads`,
  source: "assumed",
  gemmFlopsPerMicro: 60_000 * threads,
  attentionFlopsPerMicro: 30_000 * threads,
  bytesPerMicro: 10_000,
  stepMicros: 100,
  itemMicros: 20,
})

/** Reads the table of --cost-model. Fails with a {@link UsageError} that names the file and the field. */
export const readCostTable = (file: string): Effect.Effect<CostTable, UsageError> =>
  Effect.tryPromise({
    try: async () => decodeCostTable(JSON.parse(await readFile(file, "utf8"))),
    catch: (cause) => new UsageError({ message: `--cost-model ${file}: ${(cause as Error).message}` }),
  })

/** The table that --cost-model names, else the one assumed for this machine. */
export const costTableOf = (settings: ModelSettings): Effect.Effect<CostTable, UsageError> => {
  const file = settings["cost-model"]
  return file === undefined ? Effect.succeed(assumedCpu(settings.threads)) : readCostTable(file)
}
