import { Option } from "effect"
import { compare } from "./CompareCommand.ts"

const report = "uniprefill-sim-report.html"

/** What the program does when nothing is asked of it: a comparison that takes seconds, and what to try next. */
export const showExample = async (): Promise<void> => {
  await compare(
    {
      scenario: {
        name: "Dense and dropping prefill: Llama-3.1-8B on one H200, a slice of the Mooncake conversation trace",
        workload: { trace: "mooncake-conversation-slice", rate: 0.35 },
        variants: {
          dense: { schedule: "off" },
          dropping: { schedule: "preset" },
        },
      },
      folder: process.cwd(),
    },
    { seeds: 3, html: Option.some(report), json: Option.none() },
  )
  console.log(`
Open ${report} in a browser. Then try:
  uniprefill-sim run --trace mooncake-conversation-slice --rate-scale 0.6      one run, as vllm bench serve prints it
  uniprefill-sim capacity --trace mooncake-conversation-slice --attainment 0.9 the load that one device takes
  uniprefill-sim explain --trace mooncake-conversation-slice --step 500        where a step's time goes
  uniprefill-sim run --help                                                    every field of a scenario`)
}
