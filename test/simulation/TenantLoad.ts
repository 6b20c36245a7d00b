import { denseSchedule } from "@uniprefill/model/DropSchedule"
import { policyByName } from "@uniprefill/scheduler/policies/PolicyByName"
import { outputCharge } from "@uniprefill/scheduler/Tenants"
import { full, specOf } from "./Models.ts"
import { VirtualServer } from "./VirtualServer.ts"

/** One request of a tenant, and when it arrives. */
export interface TenantRequest {
  readonly tenant: string
  readonly atMicros: number
  readonly promptLength: number
  readonly maxTokens: number
  readonly answers?: number
}

/** What a request is charged in all. */
export const costOf = ({ promptLength, maxTokens, answers = 1 }: TenantRequest): number =>
  promptLength + outputCharge * maxTokens * answers

/**
 * Requests of tenants served under fair-share. Work is counted from outside: a prompt with its first token, tokens as they come.
 */
export class TenantLoad {
  readonly server: VirtualServer
  /** Time to the first token of each request, in the order of arrival; those without are left out. */
  readonly ttftMicros = new Map<TenantRequest, number>()
  private readonly arrivals: ReadonlyArray<TenantRequest>
  private readonly of = new Map<number, TenantRequest>()
  private readonly seen = new Map<number, number>()
  private readonly done = new Map<string, number>()
  private next = 0

  constructor(requests: ReadonlyArray<TenantRequest>, slots: number) {
    this.arrivals = requests.toSorted((a, b) => a.atMicros - b.atMicros)
    this.server = new VirtualServer({
      spec: specOf([full, full]),
      schedule: denseSchedule,
      config: {
        slots,
        policy: policyByName("fair-share")!,
        protectAfter: 1000,
        protectAfterMicros: Number.MAX_SAFE_INTEGER,
        maxWaiting: 100_000,
        maxWaitingTokens: 1e9,
        maxRowsPerStep: 2048,
        slabs: 3000,
        maxModelLen: 16_384,
        idleStepBudgetMicros: 50_000,
      },
    })
  }

  /** Work done for a tenant so far. */
  workOf(tenant: string): number {
    return this.done.get(tenant) ?? 0
  }

  /** Prompts of a tenant that wait. */
  waitingOf(tenant: string): number {
    return this.server.driver.scheduler.state.tenants.of(tenant)?.waiting ?? 0
  }

  /** Serves until it holds, or there is nothing left to do. */
  until(holds: () => boolean): void {
    const { server, arrivals } = this
    while (!holds()) {
      for (; this.next < arrivals.length && arrivals[this.next]!.atMicros <= server.now; this.next++) {
        const { promptLength, maxTokens, tenant, answers } = arrivals[this.next]!
        const request = server.submit({ promptLength, maxTokens, tenant, answers, drops: false })
        for (const { id } of [request, ...request.forks]) this.of.set(id, arrivals[this.next]!)
      }
      const worked = server.step()
      this.count()
      if (worked) continue
      if (this.next === arrivals.length) return
      server.now = arrivals[this.next]!.atMicros
    }
  }

  private count(): void {
    for (const [id, request] of this.of) {
      const { length } = this.server.outputs.get(id) ?? []
      const before = this.seen.get(id) ?? 0
      if (length > before) {
        let work = outputCharge * (length - before)
        if (!this.ttftMicros.has(request)) {
          this.ttftMicros.set(request, this.server.now - request.atMicros)
          work += request.promptLength
        }
        this.done.set(request.tenant, this.workOf(request.tenant) + work)
        this.seen.set(id, length)
      }
      if (this.server.ended.has(id)) this.of.delete(id)
    }
  }
}
