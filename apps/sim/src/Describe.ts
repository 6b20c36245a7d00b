import type { Experiment } from "@uniprefill/simulator/scenario/Build"
import { reusableTokens } from "@uniprefill/simulator/workload/Scaling"
import { workloadHash } from "@uniprefill/simulator/workload/Workload"

/** What was simulated, a line each; what its figures rest on is their provenance. */
export const describe = ({ scenario, setup, workload }: Experiment): ReadonlyArray<string> => {
  const { schedule, device } = setup
  const devices = setup.tensorParallel * setup.replicas
  const drops = schedule.dropLayers
  const lines = [
    `model      ${scenario.model}, ${drops.length === 0 ? "dense" : `drops at layers ${drops.map((drop) => drop.layer).join(", ")} (p ${[...new Set(drops.map((drop) => drop.p))].join(", ")})`}`,
    `device     ${devices} × ${device.label} (tensor parallel ${setup.tensorParallel} × ${setup.replicas} replicas)`,
    `workload   ${workload.name}: ${workload.count} requests`,
    ...workload.assumptions.map((assumption) => `           ${assumption}`),
  ]
  if (workload.blockTokens > 0) {
    const total = workload.promptTokens.reduce((sum, tokens) => sum + tokens, 0)
    lines.push(
      `           an unbounded cache could reuse ${((reusableTokens(workload) / total) * 100).toFixed(1)}% of the prompt tokens`,
    )
  }
  return lines
}

/** One line that gives this run again. */
export const reproduction = ({ scenario, workload }: Experiment): string =>
  `seed ${scenario.seed}, workload ${workloadHash(workload)}`
