import type { AnswerEvent, Finished, PlannedChoice } from "./AnswerPlan.ts"
import type { UsageCount } from "./UsageCount.ts"

/**
 * The stream's messages for a batch of events of one choice, as `message` writes them, and their usage counted. The last
 * output carries the end where that is there: `end` is null for every other event.
 */
export const messagesOf = (
  choice: PlannedChoice,
  events: ReadonlyArray<AnswerEvent>,
  usage: UsageCount,
  message: (event: AnswerEvent, end: Finished | null) => string,
): string => {
  let out = ""
  for (let i = 0; i < events.length; i++) {
    const event = events[i]!
    usage.add(choice, event)
    const next = event._tag === "Finished" ? event : events[i + 1]
    const end = next?._tag === "Finished" ? next : null
    if (end !== null && event._tag !== "Finished") {
      i++
      usage.add(choice, end)
    }
    out += message(event, end)
  }
  return out
}
