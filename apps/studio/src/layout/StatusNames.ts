/** What became of a request, in words, by the value of its status. */
export const statusNames: ReadonlyArray<string> = [
  "unfinished",
  "completed",
  "rejected",
  "too long",
  "aborted",
  "timed out",
  "failed",
  "not offered",
]
