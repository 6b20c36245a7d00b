import { Effect } from "effect"
import { Command, Flag } from "effect/cli"
import { run as runScenario } from "./RunCommand.ts"
import { readScenario, scenarioArgument, scenarioFlags } from "./ScenarioSource.ts"

const version = "0.1.0"

const outputFile = (name: string, description: string) =>
  Flag.String(name).pipe(Flag.withMetavar("FILE"), Flag.withDescription(description), Flag.optional)

const runCommand = Command.make(
  "run",
  {
    scenario: scenarioArgument,
    ...scenarioFlags,
    json: outputFile("json", "Write the result as JSON, with the field names of vllm bench serve"),
  },
  Effect.fnUntraced(function* ({ scenario, json, ...flags }) {
    yield* Effect.tryPromise({
      try: () => runScenario(readScenario(scenario, flags), { json }),
      catch: (error) => error,
    })
  }),
).pipe(
  Command.withShortDescription("Simulate one scenario and print what `vllm bench serve` would"),
  Command.withDescription("Simulate one scenario and print its latencies, throughput and goodput."),
  Command.withExamples([
    {
      command: "uniprefill-sim run --trace mooncake-conversation-slice",
      description: "The shipped slice of a real trace",
    },
  ]),
)

const simCommand = Command.make("uniprefill-sim").pipe(
  Command.withDescription(
    "Simulate serving with token-dropping prefill: the production scheduler under a virtual clock.",
  ),
  Command.withSubcommands([runCommand]),
)

export const run = Command.run(simCommand, { version })
