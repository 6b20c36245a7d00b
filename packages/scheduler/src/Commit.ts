import { keptRows } from "@uniprefill/model/Selection"
import type { ActionList, TokenList } from "./Actions.ts"
import type { Departures } from "./Departures.ts"
import { InvariantViolation } from "./InvariantViolation.ts"
import type { PrefillStage } from "./PrefillStage.ts"
import type { Request } from "./Request.ts"
import type { ServingState } from "./ServingState.ts"
import { ItemField, sectionWidths, type StepPlan } from "./StepPlan.ts"
import { SelectionFlag, type StepResult, TokenFlag } from "./StepResult.ts"
import { outputCharge } from "./Tenants.ts"

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
    const { block, sink, lastQ } = this.state.config.schedule
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
      const kept = keptRows(bitmap, { rows: progress.rowsOf(segment), block, sink, lastQ })
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
    const { places } = this.state
    const { data, length } = result.tokens
    const { tokens } = actions
    const count = length / 3
    tokens.makeRoom(count)
    places.begin(count)
    for (let place = 0; place < count; place++) {
      const end = places.firstMoved(data, place, count)
      this.tokensAsBefore(data, place, end, tokens)
      place = end
      if (place < count) this.tokenElsewhere(data, place, plan, tokens)
    }
    places.advance()
  }

  /** Tokens of those who had places from `place` to `end` in the last result, too. */
  private tokensAsBefore(data: Int32Array, place: number, end: number, list: TokenList): void {
    const { requests, lastResults, results } = this.state.places
    const { requests: owners, last } = list
    const tokens = list.tokens.data
    const flags = list.flags.data
    let at = list.length
    for (let i = 3 * place; place < end; place++, at++, i += 3) {
      const request = requests[place]!
      // Mostly the same as a step ago, and to look is cheaper than to tell the collector of a store.
      if (owners[at] !== request) owners[at] = request
      tokens[at] = data[i + 1]!
      const flag = data[i + 2]!
      flags[at] = flag
      if (flag !== 0 && (flag & TokenFlag.stop) !== 0) last.push(at)
      else if (lastResults[place] === results + 1) last.push(at)
    }
    list.length = at
  }

  /** The token at a place where another's stood before. */
  private tokenElsewhere(data: Int32Array, place: number, plan: StepPlan, list: TokenList): void {
    const { slots, places } = this.state
    const slot = data[3 * place]!
    const request = slots.at(slot)
    if (request === null) throw new InvariantViolation("a token belongs to an open slot", { slot, step: plan.stepId })
    if (request.endReason !== null) {
      places.vacate(place)
      return
    }
    let isLast: boolean
    if (request.flight.leaving) {
      // Preempted while the step was in flight.
      places.vacate(place)
      request.progress.getToken()
      request.account.tenant.served += outputCharge
      isLast = request.outputs === request.maxTokens
    } else {
      places.put(request, place)
      isLast = request.outputs + 1 === request.maxTokens
    }
    const flags = data[3 * place + 2]!
    if (isLast || (flags & TokenFlag.stop) !== 0) list.last.push(list.length)
    list.push(request, data[3 * place + 1]!, flags)
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
