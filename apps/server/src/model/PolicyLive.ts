import { existsSync } from "node:fs"
import { resolve } from "node:path"
import { pathToFileURL } from "node:url"
import type { Policy } from "@uniprefill/scheduler/Policy"
import { policyByName, policyNames } from "@uniprefill/scheduler/policies/PolicyByName"
import { loadPolicy } from "@uniprefill/scheduler/services/PolicyModule"
import { Effect } from "effect"
import type { ModelSettings } from "../options/ModelOptions.ts"
import { UsageError } from "../cli/UsageError.ts"

/** The policy that --policy names: one of ours, or the default export of a module. */
export const policyOf = (settings: ModelSettings): Effect.Effect<Policy, UsageError> => {
  const { policy: name } = settings
  if (/\.[cm]?[jt]s$/.test(name)) {
    if (!existsSync(name)) return Effect.fail(new UsageError({ message: `--policy ${name}: no such file` }))
    return loadPolicy(pathToFileURL(resolve(name)).href).pipe(
      Effect.mapError(({ detail }) => new UsageError({ message: `--policy ${name}: ${detail}` })),
    )
  }
  const maxNumBatchedTokens = settings["max-num-batched-tokens"]
  const budget = {
    ...(maxNumBatchedTokens === undefined ? {} : { maxNumBatchedTokens }),
    maxNumSeqs: settings["max-num-seqs"],
  }
  return Effect.try({
    try: () => policyByName(name, name === "token-budget" ? budget : {}),
    catch: (cause) => new UsageError({ message: `--policy ${(cause as Error).message}` }),
  }).pipe(
    Effect.flatMap((policy) =>
      policy === undefined
        ? Effect.fail(
            new UsageError({
              message: `--policy: there is no ${JSON.stringify(name)}; there are ${policyNames.join(", ")}, and modules (.ts, .js)`,
            }),
          )
        : Effect.succeed(policy),
    ),
  )
}
