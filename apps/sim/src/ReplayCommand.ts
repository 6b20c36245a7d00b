import { readRecording } from "@uniprefill/recording/RecordingFile"
import { replay as replayEvents } from "@uniprefill/recording/Replay"
import { Effect, Option } from "effect"
import { readPolicy } from "./PolicyFile.ts"

/**
 * `uniprefill-sim replay`: runs a recorded production run through this build's serving loop. Identical decisions, or the first
 * that differs and exit code 1.
 */
export const replay = async (file: string, policyModule: Option.Option<string>): Promise<void> => {
  const { header, events } = await Effect.runPromise(readRecording(file))
  const policy = Option.isSome(policyModule) ? await readPolicy(process.cwd(), policyModule.value) : undefined
  const report = replayEvents(header, events, policy)
  const drops = header.schedule.dropLayers.map(({ layer }) => layer)
  console.log(`recording  ${file}, made by ${header.code}`)
  console.log(
    `model      ${header.spec.architecture}, ${header.spec.layers.length} layers, ${drops.length === 0 ? "dense" : `drops at layers ${drops.join(", ")}`}`,
  )
  console.log(
    `policy     ${header.policy.name}; costs of ${header.costs.calibration.device}, ${header.costs.calibration.source}`,
  )
  if (report.difference === null) {
    console.log(
      `identical  ${report.plans} plans from ${report.events} events; ${report.preemptions} preemptions, ${report.prefixHits} prompt tokens from the prefix cache`,
    )
    return
  }
  const { step, section, detail } = report.difference
  console.log(
    `DIFFERS    at step ${step}${section === null ? "" : `, ${section}`}, after ${report.plans} equal plans: ${detail}`,
  )
  process.exitCode = 1
}
