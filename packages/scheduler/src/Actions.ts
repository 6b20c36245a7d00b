import { IntList } from "./IntList.ts"
import type { FinishReason, Request } from "./Request.ts"
import type { StepPlan } from "./StepPlan.ts"

/**
 * What the loop asks of its shell, as plain lists in the order in which to carry them out. They are complete when the loop
 * returns them, so a shell may call the loop again from anywhere. Lists of `tick` and of `stepDone` are the loop's own and
 * valid until the next call of the same method.
 */
export interface Actions {
  readonly selections: ReadonlyArray<SelectionAction>
  readonly tokens: TokenList
  /** Requests that have ended; nothing more is said of them. What they own is given back once no step in flight uses it. */
  readonly finished: ReadonlyArray<FinishAction>
  /** Contents that no slot will be opened for: the executor may forget them. */
  readonly forgets: ReadonlyArray<number>
  /**
   * Requests that start over, or whose p was lowered, under a new `contentId`: the content as it is now, output and bitmaps so
   * far included, is to be put into the executor before `plans`, and before the loop is told anything of the request.
   */
  readonly puts: ReadonlyArray<Request>
  /** Steps to run after those before. A plan stays as it is until the next `tick`; an executor copies what it keeps. */
  readonly plans: ReadonlyArray<StepPlan>
}

/** A selection was made: `kept` rows of the set before it stay. */
export interface SelectionAction {
  readonly request: Request
  readonly segment: number
  readonly bitmap: Uint32Array
  readonly kept: number
  /** See SelectionFlag. */
  readonly flags: number
}

export interface FinishAction {
  readonly request: Request
  readonly reason: FinishReason
  /** Why the executor ended it, where that did: see FailureReason; 0 otherwise. */
  readonly failure: number
}

/** One output token for each of some requests, column by column: lists that a steady step refills without allocating. */
export class TokenList {
  length = 0
  readonly requests: Array<Request> = []
  /** `length` of `data` are theirs; the same of flags. */
  readonly tokens = new IntList()
  /** See TokenFlag. */
  readonly flags = new IntList()
  /** Which of them are their request's last: those that stop it, and those that it may have no more after. */
  readonly last = new IntList()

  /** Makes room for `most` tokens. */
  makeRoom(most: number): void {
    this.tokens.makeRoom(most)
    this.flags.makeRoom(most)
  }

  /** Requires that there is room for one. */
  push(request: Request, token: number, flags: number): void {
    const at = this.length++
    this.requests[at] = request
    this.tokens.data[at] = token
    this.flags.data[at] = flags
  }

  clear(): void {
    this.length = 0
    this.last.clear()
  }
}

/** Actions being collected. */
export class ActionList implements Actions {
  readonly forgets: Array<number> = []
  readonly puts: Array<Request> = []
  readonly plans: Array<StepPlan> = []
  readonly selections: Array<SelectionAction> = []
  readonly tokens = new TokenList()
  readonly finished: Array<FinishAction> = []

  clear(): this {
    if (this.forgets.length > 0) this.forgets.length = 0
    if (this.puts.length > 0) this.puts.length = 0
    // A list cut to nothing gives up its memory, and this one is filled again in every step.
    while (this.plans.length > 0) this.plans.pop()
    if (this.selections.length > 0) this.selections.length = 0
    if (this.finished.length > 0) this.finished.length = 0
    this.tokens.clear()
    return this
  }
}
