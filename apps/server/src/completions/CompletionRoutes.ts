import { decodeCompletionRequest } from "@uniprefill/openai/CompletionRequest"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect } from "effect"
import { respond } from "../answers/AnswerResponse.ts"
import { streamUsageOf } from "../answers/UsageCount.ts"
import { readRequest } from "../body/readRequest.ts"
import { completionFormat } from "./CompletionAnswer.ts"
import { planCompletion } from "./CompletionPlan.ts"

/** `POST /v1/completions` */
export const completionRoute = Effect.gen(function* () {
  const request = yield* readRequest(decodeCompletionRequest)
  const plan = yield* planCompletion(request)
  const format = completionFormat(plan, yield* Tokenizer, streamUsageOf(request.stream_options))
  return yield* respond(plan, format, request.stream === true)
})
