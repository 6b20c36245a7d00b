import { keptRows } from "@uniprefill/model/Selection"
import type { ActionList } from "./Actions.ts"
import type { Departures } from "./Departures.ts"
import { InvariantViolation } from "./InvariantViolation.ts"
import type { PrefillStage } from "./PrefillStage.ts"
import type { Request } from "./Request.ts"
import type { ServingState } from "./ServingState.ts"
import { ItemField, sectionWidths, type StepPlan } from "./StepPlan.ts"
import { SelectionFlag, type StepResult, TokenFlag } from "./StepResult.ts"
import { outputCharge, type Tenant } from "./Tenants.ts"

/** Takes over what a step brought. Requests that have ended meanwhile are skipped. */
export class Commit {
  private readonly state: ServingState
  private readonly departures: Departures
  private readonly prefill: PrefillStage

  constructor(state: ServingState, departures: Departures, prefill: PrefillStage) {
    this.state = state
    this.departures = departures
    this.prefill = prefill
  }

  /** Selections of a step: the kept sets of its prompts, which `actions` gets too. */
  selections(result: StepResult, actions: ActionList): void {
    const { schedule } = this.state.config
    const { data, length } = result.selections
    for (let i = 0; i < length;) {
      const slot = data[i]!
      const segment = data[i + 1]!
      const flags = data[i + 2]!
      const words = data[i + 3]!
      const bitmap = new Uint32Array(words)
      for (let w = 0; w < words; w++) bitmap[w] = data[i + 4 + w]!
      i += 4 + words
      const request = this.state.slots.at(slot)
      if (request === null || request.endReason !== null) continue
      const { progress } = request
      if (segment + 1 < progress.keptRows.length) {
        if ((flags & SelectionFlag.replayed) === 0) {
          throw new InvariantViolation("a decided selection is replayed, not scored again", { id: request.id, segment })
        }
        continue
      }
      if (segment + 1 !== progress.keptRows.length) {
        throw new InvariantViolation("selections come in the order of segments", { id: request.id, segment })
      }
      const kept = keptRows(bitmap, { rows: progress.rowsOf(segment), ...schedule })
      progress.bitmaps.push(bitmap)
      progress.keptRows.push(kept)
      this.state.sloP.selected(request, segment)
      actions.selections.push({ request, segment, bitmap, kept, flags })
    }
  }

  /** Prefill of a step: pages that are complete are published, and prompts go on to their next segment or decode. */
  items(plan: StepPlan): void {
    const { data, length } = plan.items
    const { memory, slots, config } = this.state
    const last = config.layout.segments.length - 1
    for (let i = 0; i < length; i += sectionWidths.items) {
      const request = slots.at(data[i + ItemField.slot]!)
      if (request === null) continue
      const { holdings, flight } = request
      // A plan that closes the slot has given its slabs up: what nobody holds any more cannot be retained.
      const mayPublish = !flight.closed && holdings.pageKeys.length > holdings.cachedPages
      if (mayPublish && data[i + ItemField.firstSegment] === 0) {
        memory.publish(request, data[i + ItemField.firstRow]! + data[i + ItemField.rows]!)
      }
      if (request.endReason !== null || flight.awaitsStep !== plan.stepId) continue
      const lastSegment = data[i + ItemField.lastSegment]!
      if (!flight.leaving) this.goOn(request, lastSegment, last)
      else if (lastSegment === last && request.forks.length > 0) this.disband(request)
    }
  }

  /** Tokens of a step, which `actions` gets. */
  tokens(plan: StepPlan, result: StepResult, actions: ActionList): void {
    const { requests } = this.state.slots
    const { data, length } = result.tokens
    const { tokens } = actions
    let at = tokens.length
    tokens.extend(length / 3)
    // Rows of one tenant mostly stand side by side: its counter is touched once for all of them.
    let tenant: Tenant | null = null
    let charge = 0
    for (let i = 0; i < length; i += 3) {
      const request = requests[data[i]!]
      if (request === null || request === undefined) {
        throw new InvariantViolation("a token belongs to an open slot", { slot: data[i], step: plan.stepId })
      }
      if (request.endReason !== null) continue
      if (request.account.tenant !== tenant) {
        if (tenant !== null) tenant.served += charge
        tenant = request.account.tenant
        charge = 0
      }
      charge += outputCharge
      const flags = data[i + 2]!
      if (++request.progress.outputs === request.maxTokens || (flags & TokenFlag.stop) !== 0) {
        tokens.last.push(at)
      }
      tokens.set(at++, request, data[i + 1]!, flags)
    }
    tokens.cut(at)
    if (tenant !== null) tenant.served += charge
  }

  private goOn(request: Request, lastSegment: number, last: number): void {
    const { progress, flight } = request
    if (request.drops && progress.keptRows.length < Math.min(lastSegment, last - 1) + 2) {
      throw new InvariantViolation("an item that completes a segment returns its selection", {
        id: request.id,
        lastSegment,
        selections: progress.keptRows.length - 1,
      })
    }
    flight.awaitsStep = 0
    if (lastSegment === last) {
      this.prefill.startDecoding(request)
      return
    }
    progress.segment = lastSegment + 1
    progress.computedRows = 0
    this.state.memory.finishSegments(request, progress.segment)
  }

  /** A prompt that was preempted is done after all: its answers start over, each by itself. */
  private disband(leader: Request): void {
    for (const fork of this.state.forks.disband(leader)) {
      if (fork.endReason === null) fork.account.preemptions++
      this.departures.leave(fork)
    }
  }
}
