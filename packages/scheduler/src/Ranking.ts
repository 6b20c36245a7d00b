import type { Memory } from "./Memory.ts"
import { type Policy, PolicyFault } from "./Policy.ts"
import { loadRest } from "./Prefill.ts"
import type { Request } from "./Request.ts"
import { RequestView } from "./RequestView.ts"
import type { SchedulerConfig } from "./SchedulerConfig.ts"
import { StepLoad, windowsOf } from "./StepLoad.ts"

/**
 * Who is served first, and who makes room when memory runs out.
 *
 * Protected requests come first, then all others; both in order of arrival, and the others as the policy says. A protected
 * request is never the victim of one behind it. So whatever a policy does, the oldest request finishes, and then the next.
 */
export class Ranking {
  private readonly config: SchedulerConfig
  /** Scratch for predictions that views ask for. */
  private readonly load: StepLoad

  private readonly predict: (request: Request) => number
  private readonly owned: (request: Request) => number

  constructor(config: SchedulerConfig, memory: Memory) {
    this.config = config
    this.load = new StepLoad(config.layout.segments.length, windowsOf(config.layout))
    this.predict = (request) => {
      loadRest(request, config.layout, this.load)
      return config.costModel.stepMicros(this.load)
    }
    this.owned = (request) => memory.ownedSlabs(request)
  }

  /** Passed over or preempted often enough, or old enough. */
  isProtected(request: Request, nowMicros: number): boolean {
    const { protectAfter, protectAfterMicros } = this.config
    return (
      request.bypasses + request.preemptions >= protectAfter || nowMicros - request.arrivedMicros > protectAfterMicros
    )
  }

  /** Whether `request` comes after `other` in rank. */
  isBehind(request: Request, other: Request, nowMicros: number): boolean {
    const guarded = this.isProtected(request, nowMicros)
    if (guarded !== this.isProtected(other, nowMicros)) return !guarded
    return request.id > other.id
  }

  /** Queued prompts in the order in which a policy with an opinion serves them. Throws PolicyFault. */
  *ordered(prompts: ReadonlyArray<Request>, nowMicros: number): Generator<Request> {
    const { policy } = this.config
    const queued = prompts.toSorted((a, b) => a.id - b.id)
    const rest = new Map(queued.map((request) => [request.id, request]))
    for (const request of queued) {
      if (!this.isProtected(request, nowMicros)) continue
      rest.delete(request.id)
      yield request
    }
    if (rest.size === 0) return
    const shown = new Set(queued.map((request) => request.id))
    const views = queued.map((request) => this.viewOf(request))
    for (const id of ask(policy, "order", () => policy.order!(views, nowMicros))) {
      const request = rest.get(id)
      if (request === undefined) {
        if (shown.has(id)) continue
        throw new PolicyFault(policy.name, `ordered request ${String(id)}, which is not queued`)
      }
      rest.delete(id)
      yield request
    }
    yield* rest.values()
  }

  /**
   * Who of the requests with a slot goes so that `request` can go on: the policy's choice, else the last in rank. May be
   * `request` itself; null when all others are ahead of it. Throws PolicyFault.
   */
  victimFor(request: Request, bySlot: ReadonlyArray<Request | null>, nowMicros: number): Request | null {
    const { policy } = this.config
    if (policy.victims !== undefined) {
      const running = bySlot.filter(mayGo)
      const byId = new Map(running.map((one) => [one.id, one]))
      const views = running.map((one) => this.viewOf(one))
      for (const id of ask(policy, "victims", () => policy.victims!(views, nowMicros))) {
        const one = byId.get(id)
        if (one === undefined) {
          throw new PolicyFault(policy.name, `proposed request ${String(id)} as a victim, which does not run`)
        }
        const allowed = this.isBehind(one, request, nowMicros) || !this.isProtected(one, nowMicros)
        if (one !== request && allowed) return one
      }
    }
    let last: Request | null = null
    for (const one of bySlot) if (mayGo(one) && (last === null || this.isBehind(one, last, nowMicros))) last = one
    return last !== null && (last === request || this.isBehind(last, request, nowMicros)) ? last : null
  }

  private viewOf(request: Request): RequestView {
    return (request.view ??= new RequestView(request, this.predict, this.owned))
  }
}

/** Whether a slot's request can be preempted: it runs, and has not ended. */
const mayGo = (one: Request | null): one is Request =>
  one !== null && one.endReason === null && !one.preempting && one.phase !== "fork"

/** A policy's answer as a list of its own, or a fault that names the policy. */
const ask = (policy: Policy, question: "order" | "victims", answer: () => Iterable<number>): ReadonlyArray<number> => {
  try {
    return Array.from(answer())
  } catch (cause) {
    throw new PolicyFault(
      policy.name,
      `failed in ${question}: ${cause instanceof Error ? cause.message : String(cause)}`,
      cause,
    )
  }
}
