import type { ExecutorInfo } from "@uniprefill/executor/Executor"
import { EngineError, type GenerateRequest } from "./Engine.ts"

/**
 * The place where log-probabilities of prompts plug in. A request for them is refused here as long as executors do not compute
 * them; one that does brings them with the first output of the first answer (`promptLogprobs` of that event), and then
 * nothing is left to refuse.
 */
export const checkPromptLogprobs = (request: GenerateRequest, info: ExecutorInfo): EngineError | null => {
  if (request.promptLogprobs === undefined) return null
  const detail = `log-probabilities of the prompt are not computed by this executor (${info.device})`
  return new EngineError({ reason: "InvalidRequest", field: "logprobs", detail })
}
