import { existsSync } from "node:fs"
import { pathToFileURL } from "node:url"
import type { Policy } from "@uniprefill/scheduler/Policy"
import { loadPolicy } from "@uniprefill/scheduler/services/PolicyModule"
import { Effect } from "effect"
import { locate } from "./Files.ts"
import { UsageError } from "./UsageError.ts"

/** The policy of a module, looked up as other files are. Fails with UsageError that names it as it was given. */
export const readPolicy = (folder: string, name: string): Promise<Policy> => {
  const file = locate(folder, name)
  if (!existsSync(file)) throw new UsageError(`policy ${name}: no such file`)
  const named = ({ detail }: { readonly detail: string }) => new UsageError(`policy ${name}: ${detail}`)
  return Effect.runPromise(Effect.mapError(loadPolicy(pathToFileURL(file).href), named))
}
