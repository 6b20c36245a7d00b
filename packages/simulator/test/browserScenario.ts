import type { Scenario } from "@uniprefill/simulator/scenario/Scenario"

/** Draws of every kind, dropping, shared prefixes and faults, in a second. */
export const browserScenario: Scenario = {
  seed: 9,
  workload: { arrivals: "sessions", ratePerSecond: 1, requests: 120, promptTokens: "lognormal:3000,1.2,60000" },
  faults: { slowSteps: 0.05, cancelled: 0.1, failedSteps: 0.001, recoveryMs: 500 },
}
