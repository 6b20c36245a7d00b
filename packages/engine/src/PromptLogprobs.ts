import type { ExecutorInfo } from "@uniprefill/executor/Executor"
import { EngineError, type GenerateEvent, type GenerateRequest } from "./Engine.ts"

/**
 * The place where an executor's log-probabilities of prompt tokens become an event of the answer.
 *
 * A request that asks for them ({@link GenerateRequest.promptLogprobs}) is refused by {@link checkPromptLogprobs} as long as
 * its executor does not compute them. Where it does, its results bring them row by row, in any order, and
 * {@link PromptLogprobs} gathers them; `event` is what each answer's stream begins with, before its first output.
 */
export class PromptLogprobs {
  private readonly entries: Array<ReadonlyArray<readonly [token: number, logprob: number]>>
  private missing: number

  /** `promptLength` tokens, of which the first has no log-probability. */
  constructor(promptLength: number) {
    this.entries = Array.from({ length: promptLength }, () => [])
    this.missing = promptLength - 1
  }

  /** Takes what row `row` of the prompt says of the token after it: that token first, then the most likely ones. */
  add(row: number, entries: ReadonlyArray<readonly [token: number, logprob: number]>): void {
    const at = row + 1
    if (at >= this.entries.length) return
    if (this.entries[at]!.length === 0) this.missing--
    this.entries[at] = entries
  }

  /** Null until every row has come. */
  get event(): (GenerateEvent & { readonly _tag: "Prompt" }) | null {
    return this.missing === 0 ? { _tag: "Prompt", logprobs: this.entries } : null
  }
}

/** Why a request for log-probabilities of its prompt cannot be served by this executor; null where it can. */
export const checkPromptLogprobs = (request: GenerateRequest, info: ExecutorInfo): EngineError | null => {
  if (request.promptLogprobs === undefined || computesPromptLogprobs(info)) return null
  const detail = `log-probabilities of the prompt are not computed by this executor (${info.device})`
  return new EngineError({ reason: "InvalidRequest", field: "logprobs", detail })
}

/** An executor that can says so in its info. */
const computesPromptLogprobs = (info: ExecutorInfo): boolean =>
  (info as { readonly promptLogprobs?: boolean }).promptLogprobs === true
