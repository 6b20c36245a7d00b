import type { ReadText } from "@uniprefill/simulator/scenario/Build"
import { isPolicyModule } from "@uniprefill/simulator/scenario/Policies"
import { scenarioDefaults } from "@uniprefill/simulator/scenario/Scenario"
import { fileReader, isShipped } from "./Files.ts"
import type { ScenarioSource } from "./ScenarioSource.ts"
import { UsageError } from "./UsageError.ts"

/**
 * A scenario with the text of every file that it names, for the studio (apps/studio) to run again in a browser. `hash` is
 * the run's plan hash, which it must find too.
 */
export class StudioFile {
  /** Looks up files like a run does, and keeps what it finds. */
  readonly read: ReadText
  private readonly source: ScenarioSource
  private readonly files = new Map<string, string>()

  /** Fails with UsageError for a policy that is a module: a page runs no code but its own. */
  constructor(source: ScenarioSource) {
    this.source = source
    const { policy = scenarioDefaults.policy } = source.scenario
    if (isPolicyModule(policy)) throw new UsageError(`--studio: the studio cannot run the policy ${policy}, a module`)
    const read = fileReader(source.folder)
    this.read = (name) => {
      const text = read(name)
      if (!isShipped(name)) this.files.set(name, text)
      return text
    }
  }

  /** `hash`: empty where the run was ended early. */
  json(hash: string): string {
    const { sweep: _sweep, variants: _variants, ...scenario } = this.source.scenario
    const files = Object.fromEntries(this.files)
    return `${JSON.stringify({ format: "uniprefill-studio", version: 1, scenario, files, hash })}\n`
  }
}
