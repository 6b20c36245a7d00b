import type { Memory } from "./Memory.ts"
import { type Policy, PolicyFault } from "./Policy.ts"
import { loadRest } from "./Prefill.ts"
import type { Request } from "./Request.ts"
import { type PrefixHits, RequestView } from "./RequestView.ts"
import type { SchedulerConfig } from "./SchedulerConfig.ts"
import { StepLoad, windowsOf } from "./StepLoad.ts"
import type { Turns } from "./Turns.ts"
import type { WaitingQueue } from "./WaitingQueue.ts"

/** Who there is to rank. */
interface Contenders {
  readonly waiting: WaitingQueue
  readonly turns: Turns
  readonly prefilling: ReadonlyArray<Request>
  readonly slots: { readonly requests: ReadonlyArray<Request | null> }
}

/**
 * Who is served first, and who makes room when memory runs out: the policy's to say, but for two.
 *
 * The *front* is the oldest prompt whose first token no step computes, waiting or in prefill. Passed over often enough, or the front for
 * long enough, it goes before the policy's order. One at a time, and the count begins when a prompt becomes the front: so
 * whatever a policy does, the front is served, and then the next; and under load the policy stays what it says.
 *
 * The *guard* is the oldest request that was passed over or preempted often enough, or is old enough: nobody's victim, so it
 * finishes, and then the next.
 */
export class Ranking {
  private readonly config: SchedulerConfig
  /** Scratch for predictions that views ask for. */
  private readonly load: StepLoad

  private readonly predict: (request: Request, computedRows: number) => number
  private readonly owned: (request: Request) => number
  private readonly hits: PrefixHits

  constructor(config: SchedulerConfig, memory: Memory) {
    this.config = config
    this.load = new StepLoad(config.layout.segments.length, windowsOf(config.layout))
    this.predict = (request, computedRows) => {
      loadRest(request, config.layout, this.load, computedRows)
      return config.costModel.stepMicros(this.load)
    }
    this.owned = (request) => memory.ownedSlabs(request)
    this.hits = {
      version: () => memory.tree.version,
      rows: (request) => memory.prefixes.find(request) * config.layout.pageSize,
    }
  }

  /** The oldest prompt whose first token no step computes; null when there is none. Begins to count for it. */
  front({ waiting, prefilling }: Contenders, nowMicros: number): Request | null {
    let front = waiting.at(0) ?? null
    for (let i = 0; i < prefilling.length; i++) {
      const one = prefilling[i]!
      if (!one.flight.samples && (front === null || one.id < front.id)) front = one
    }
    if (front !== null && front.account.frontSinceMicros < 0) front.account.frontSinceMicros = nowMicros
    return front
  }

  /** The front, where it goes before the policy's order; null where it does not. */
  protectedFront(contenders: Contenders, nowMicros: number): Request | null {
    const front = this.front(contenders, nowMicros)
    if (front === null) return null
    return this.isHardPressed(front) || nowMicros - front.account.frontSinceMicros > this.config.protectAfterMicros
      ? front
      : null
  }

  /** The oldest request that is protected from being preempted; null when none is. */
  guardOf({ waiting, slots }: Contenders, nowMicros: number): Request | null {
    const first = waiting.at(0)
    let guard = first !== undefined && this.isProtected(first, nowMicros) ? first : null
    for (const one of slots.requests) {
      if (one === null || !mayGo(one) || (guard !== null && guard.id < one.id)) continue
      if (this.isProtected(one, nowMicros)) guard = one
    }
    return guard
  }

  /**
   * Whether `request` comes after `other` where memory is given: the guard first, then whose turn has just begun, the others in
   * order of arrival.
   */
  isBehind(request: Request, other: Request, guard: Request | null): boolean {
    if (request === guard || other === guard) return other === guard
    const { holdsTurn } = request.account
    return holdsTurn === other.account.holdsTurn ? request.id > other.id : !holdsTurn
  }

  /** Puts requests in order of rank. By insertion: they are few, and sorting any other way would make objects. */
  sort(requests: Array<Request>, guard: Request | null): void {
    for (let i = 1; i < requests.length; i++) {
      const one = requests[i]!
      let at = i
      for (; at > 0 && this.isBehind(requests[at - 1]!, one, guard); at--) requests[at] = requests[at - 1]!
      requests[at] = one
    }
  }

  /** Queued prompts in the order in which a policy with an opinion serves them. Throws PolicyFault. */
  *ordered(prompts: ReadonlyArray<Request>, nowMicros: number): Generator<Request> {
    const { policy } = this.config
    const queued = prompts.toSorted((a, b) => a.id - b.id)
    const rest = new Map(queued.map((request) => [request.id, request]))
    const shown = new Set(rest.keys())
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

  /** The prompt that the policy serves first of those that wait. Requires one. */
  firstOf(waiting: ReadonlyArray<Request>, nowMicros: number): Request {
    if (this.config.policy.order === undefined) return waiting[0]!
    for (const first of this.ordered(waiting, nowMicros)) return first
    return waiting[0]!
  }

  /**
   * Who of the requests with a slot goes so that `request` can go on: the policy's choice, else the last in rank. May be
   * `request` itself; null when all others are ahead of it. Throws PolicyFault.
   */
  victimFor(request: Request, contenders: Contenders, nowMicros: number): Request | null {
    const guard = this.guardOf(contenders, nowMicros)
    if (this.config.policy.victims !== undefined) {
      for (const one of this.proposed(contenders, nowMicros)) if (one !== request && one !== guard) return one
    }
    const last = this.lastInRank(contenders, guard)
    return last !== null && (last === request || this.isBehind(last, request, guard)) ? last : null
  }

  /**
   * Who of the requests with a slot makes room for the front, which goes first: of those behind it the policy's choice, else the
   * last in rank; one ahead would be the front next, and take the slot back. Null when all are ahead. Throws PolicyFault.
   */
  behind(front: Request, contenders: Contenders, nowMicros: number): Request | null {
    const guard = this.guardOf(contenders, nowMicros)
    if (this.config.policy.victims !== undefined) {
      for (const one of this.proposed(contenders, nowMicros)) if (this.isBehind(one, front, guard)) return one
    }
    const last = this.lastInRank(contenders, guard)
    return last !== null && this.isBehind(last, front, guard) ? last : null
  }

  /** Who of the requests with a slot makes room of `slabs` slabs for whose turn it is; null when nobody does. */
  victimOfTurn(slabs: number, contenders: Contenders, nowMicros: number): Request | null {
    const guard = this.guardOf(contenders, nowMicros)
    const running = contenders.slots.requests.filter(
      (one): one is Request => one !== null && one !== guard && mayGo(one),
    )
    return contenders.turns.victim(running, slabs, this.owned)
  }

  /** Predicted time that the rest of a request's prefill takes by itself. */
  prefillMicros(request: Request): number {
    return this.predict(request, request.progress.computedRows)
  }

  /**
   * Who of the requests with a slot the policy takes it from for a prompt that waits; null when it takes none. Never one that
   * gave way often enough, nor the front that goes first: it would take the slot back, and so on for ever.
   */
  preemptedBy(waiting: Request, contenders: Contenders, nowMicros: number): Request | null {
    const { policy } = this.config
    const guard = this.guardOf(contenders, nowMicros)
    const front = this.protectedFront(contenders, nowMicros)
    const view = this.viewOf(waiting)
    for (const one of this.proposed(contenders, nowMicros)) {
      if (one === guard || one === front || this.isHardPressed(one)) continue
      const answers = ask(policy, "preempts", () => [policy.preempts!(view, this.viewOf(one)) ? 1 : 0])
      return answers[0] === 1 ? one : null
    }
    return null
  }

  private lastInRank({ slots }: Contenders, guard: Request | null): Request | null {
    let last: Request | null = null
    for (const one of slots.requests) {
      if (one !== null && mayGo(one) && (last === null || this.isBehind(one, last, guard))) last = one
    }
    return last
  }

  private *proposed({ slots }: Contenders, nowMicros: number): Generator<Request> {
    const { policy } = this.config
    const running = slots.requests.filter((one): one is Request => one !== null && mayGo(one))
    const byId = new Map(running.map((one) => [one.id, one]))
    const views = running.map((one) => this.viewOf(one))
    for (const id of ask(policy, "victims", () => policy.victims?.(views, nowMicros) ?? [])) {
      const one = byId.get(id)
      if (one === undefined) {
        throw new PolicyFault(policy.name, `proposed request ${String(id)} as a victim, which does not run`)
      }
      yield one
    }
  }

  /** Passed over or preempted often enough. */
  private isHardPressed({ account }: Request): boolean {
    return account.bypasses + account.preemptions >= this.config.protectAfter
  }

  private isProtected(request: Request, nowMicros: number): boolean {
    return this.isHardPressed(request) || nowMicros - request.arrivedMicros > this.config.protectAfterMicros
  }

  private viewOf(request: Request): RequestView {
    return (request.view ??= new RequestView(request, this.predict, this.owned, this.hits))
  }
}

/** Whether a slot's request can be preempted: it runs, and is not on its way out. */
const mayGo = (one: Request): boolean => !one.flight.leaving && one.phase !== "fork"

/** A policy's answer as a list of its own, or a fault that names the policy. */
const ask = <A>(
  policy: Policy,
  question: "order" | "victims" | "preempts",
  answer: () => Iterable<A>,
): ReadonlyArray<A> => {
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
