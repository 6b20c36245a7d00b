import type { Simulation } from "@uniprefill/simulator/Simulation"
import { setImmediate } from "node:timers/promises"
import { startProgress } from "./Progress.ts"

/** Set by the first Ctrl-C: what runs stops at the next instant that it looks, and says what it has. */
export const control = { interrupted: false }

/** Instants between two looks at the clock and at Ctrl-C. */
export const stride = 5000

/** Runs a simulation to its end, or until Ctrl-C. Returns the seconds it took. */
export const drive = async (simulation: Simulation, label: string): Promise<number> => {
  const started = performance.now()
  const progress = startProgress(label, "requests")
  while (!simulation.isDone && !control.interrupted) {
    simulation.advance(stride)
    progress.update(simulation.ended, simulation.workload.count)
    await setImmediate()
  }
  progress.end()
  return (performance.now() - started) / 1000
}
