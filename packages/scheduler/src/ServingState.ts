import { DecodeSet } from "./DecodeSet.ts"
import { Forks } from "./Forks.ts"
import { Memory } from "./Memory.ts"
import { Ranking } from "./Ranking.ts"
import type { Request } from "./Request.ts"
import type { SchedulerConfig } from "./SchedulerConfig.ts"
import { servingDefaults } from "./ServingDefaults.ts"
import { Slots } from "./Slots.ts"
import { SloP } from "./SloP.ts"
import { StepBudget } from "./StepBudget.ts"
import { StepLoad, windowsOf } from "./StepLoad.ts"
import { Tenants } from "./Tenants.ts"
import { Turns } from "./Turns.ts"
import { TokenPlaces } from "./TokenPlaces.ts"
import { WaitingQueue } from "./WaitingQueue.ts"

/** What the stages of planning and committing share: who there is, what they hold, and what the step holds so far. */
export class ServingState {
  config!: SchedulerConfig
  /** Every request that has not gone, by id. */
  readonly requests = new Map<number, Request>()
  readonly waiting = new WaitingQueue()
  /** Admitted, prompt not done; in order of admission. */
  readonly prefilling: Array<Request> = []
  readonly slots: Slots
  readonly memory: Memory
  readonly decodes: DecodeSet
  readonly places: TokenPlaces
  readonly forks: Forks
  readonly tenants = new Tenants()
  ranking!: Ranking
  readonly budget: StepBudget
  readonly sloP: SloP
  readonly turns: Turns
  /** The work of the plan being made. */
  readonly load: StepLoad
  /** Requests that may have a slot at a time. */
  maxRunning = 0
  /** The last step whose result was applied. */
  committedStep = 0
  preemptions = 0
  /** Some prompt found no slot or no memory when the last plan was made, or since it was refused there was no more of them. */
  isCrowded = false
  /** Counts what may change who can be admitted: arrivals, ends, slots given up. */
  changes = 0
  private lastContentId = 0
  private readonly headroomTokens: number
  private growth = 0
  private growthAt = -1

  constructor(config: SchedulerConfig) {
    const { layout, slots } = config
    this.memory = new Memory(config)
    this.slots = new Slots(slots)
    this.places = new TokenPlaces(slots)
    this.load = new StepLoad(layout.segments.length, windowsOf(layout))
    this.forks = new Forks(this.memory)
    this.decodes = new DecodeSet(layout, this.memory, this.load)
    this.headroomTokens = config.headroomTokens ?? servingDefaults.headroomTokens
    this.budget = new StepBudget(config)
    this.sloP = new SloP(config)
    this.turns = new Turns(config)
    this.configure(config)
  }

  /** From the next plan on. Requires memory, slots and rows as they were. */
  configure(config: SchedulerConfig): void {
    const { slots, policy } = config
    this.config = config
    this.ranking = new Ranking(config, this.memory)
    this.budget.configure(config)
    this.turns.configure(config)
    this.maxRunning = Math.min(slots, policy.tokenBudget?.maxNumSeqs ?? slots)
    // What was asked of the policy before is asked again.
    this.changes++
  }

  /** Requests that have a slot. */
  get running(): number {
    return this.config.slots - this.memory.slotsFree
  }

  /** Slabs that one more request may come to take soon. */
  growthOf(request: Request): number {
    return this.memory.growthOf(request, this.headroomTokens)
  }

  /** The same of all that have a slot, counted when one of them was given a page last. */
  get growthAhead(): number {
    const at = this.changes + this.decodes.growths
    if (at !== this.growthAt) {
      this.growthAt = at
      this.growth = 0
      for (const one of this.slots.requests) if (one !== null) this.growth += this.growthOf(one)
    }
    return this.growth
  }

  /** What the rest of a request's prefill is predicted to take by itself, corrected by what steps were measured to take. */
  prefillMicros(request: Request): number {
    return this.ranking.prefillMicros(request) * this.budget.prefillCorrection
  }

  /** Names the content of a request that waits to be opened: positive and below 2³¹. */
  nextContentId(): number {
    this.lastContentId = this.lastContentId === 0x7fff_ffff ? 1 : this.lastContentId + 1
    return this.lastContentId
  }

  /** Puts a request into the queue at its place in order of arrival. */
  enqueue(request: Request): void {
    this.changes++
    this.waiting.insert(request)
    if (request.outputs > 0) this.turns.pause(request, this.prefillMicros(request))
    const { tenant } = request.account
    tenant.waiting++
    tenant.waitingTokens += request.promptLength
    tenant.levels.add(request)
  }

  /** Takes a request out of the queue. */
  dequeue(request: Request): void {
    this.changes++
    this.waiting.remove(request)
    if (request.outputs > 0) this.turns.leave(request)
    const { tenant } = request.account
    tenant.waiting--
    tenant.waitingTokens -= request.promptLength
    tenant.levels.remove(request)
  }

  /** Whether a step in flight, or forks that have no pages yet, need the request's slot. */
  isInFlight(request: Request): boolean {
    const { lastStep, forking } = request.flight
    return lastStep > this.committedStep || (forking && request.hasLiveForks)
  }
}
