import { RequestStatus } from "../metrics/RequestLog.ts"
import type { Experiment } from "../scenario/Build.ts"
import { Simulation } from "../Simulation.ts"

/** What a run broke: null when nothing. */
export interface Violation {
  /** Stays the same when the scenario around the fault gets smaller. */
  readonly kind: string
  readonly detail: string
}

/** Instants after which a run that does not end is taken for stuck. */
const maxInstants = 2_000_000

/**
 * Runs an experiment and checks, after every instant, that the books of every replica balance and, at the end, that every
 * request was answered exactly, every token came once, and nothing is owned any more.
 */
export const checkedRun = (experiment: Experiment): Violation | null => {
  let simulation: Simulation
  try {
    simulation = new Simulation(experiment.setup, experiment.workload, {
      instant: ({ replicas }) => {
        for (const { driver } of replicas) driver.checkIntegrity()
      },
    })
    simulation.advance(maxInstants)
    if (simulation.isDone) simulation.settle()
  } catch (error) {
    const { name, message } = error as Error
    return { kind: `${name}: ${message.split(/[:{(]|\d/)[0]!.trim()}`, detail: `${name}: ${message}` }
  }
  if (!simulation.isDone)
    return {
      kind: "liveness",
      detail: `not done after ${maxInstants} instants: ${simulation.ended} of ${experiment.workload.count} requests`,
    }
  return unanswered(simulation) ?? leak(simulation)
}

const unanswered = ({ log, workload }: Simulation): Violation | null => {
  for (let row = 0; row < log.count; row++) {
    const status = log.status[row]!
    const name = `request ${row + 1}`
    if (status === RequestStatus.unfinished || status === RequestStatus.notOffered)
      return { kind: "unanswered", detail: `${name} was never answered` }
    if (status !== RequestStatus.completed) continue
    const outputs = log.outputs[row]!
    if (outputs !== workload.outputTokens[row]!)
      return { kind: "output length", detail: `${name} got ${outputs} tokens of ${workload.outputTokens[row]!}` }
    const times = [log.arrival[row]!, log.firstScheduled[row]!, log.firstToken[row]!, log.lastToken[row]!]
    if (times.some((time, i) => i > 0 && time < times[i - 1]!))
      return { kind: "causality", detail: `${name}: ${times.join(" ≤ ")} does not hold` }
  }
  return null
}

const leak = ({ replicas }: Simulation): Violation | null => {
  for (const { index, driver, device, config } of replicas) {
    const { memory } = driver.scheduler
    const owned = config.slabs - memory.available
    if (driver.running + driver.waiting > 0)
      return {
        kind: "leak",
        detail: `replica ${index} still has ${driver.running} running and ${driver.waiting} waiting`,
      }
    if (owned > 0 || memory.reserved > 0) {
      return {
        kind: "leak",
        detail: `replica ${index}: ${owned} slabs are owned and ${memory.reserved} reserved by nobody`,
      }
    }
    if (device.openSlots > 0)
      return { kind: "leak", detail: `replica ${index}: ${device.openSlots} slots are left open` }
  }
  return null
}
