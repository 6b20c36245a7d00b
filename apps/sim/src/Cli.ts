import { availableParallelism } from "node:os"
import { measureNames } from "@uniprefill/simulator/explore/Measures"
import { plainly } from "@uniprefill/units/Plainly"
import { Effect } from "effect"
import { Argument, CliConfig, CliOutput, Command, Flag, GlobalFlag } from "effect/cli"
import { capacity } from "./CapacityCommand.ts"
import { compare } from "./CompareCommand.ts"
import { explain } from "./ExplainCommand.ts"
import { fit } from "./FitCommand.ts"
import { run as runScenario } from "./RunCommand.ts"
import { Placement } from "@uniprefill/placement/services/PlacementService"
import { placement } from "./PlacementCommand.ts"
import { replay } from "./ReplayCommand.ts"
import { readScenario, scenarioArgument, scenarioFlags } from "./ScenarioSource.ts"
import { showExample } from "./Example.ts"
import { shrink } from "./ShrinkCommand.ts"
import { sweep } from "./SweepCommand.ts"

const version = "0.1.0"

const outputFile = (name: string, description: string) =>
  Flag.String(name).pipe(Flag.withMetavar("FILE"), Flag.withDescription(description), Flag.optional)

const html = outputFile("html", "Write a report with charts: one page that needs nothing else")
const json = outputFile("json", "Write the result as JSON")

const countFlag = (name: string, least: number) =>
  Flag.Int(name).pipe(
    Flag.filter(
      (value) => value >= least,
      (value) => `at least ${least}, got ${value}`,
    ),
  )

const seeds = (count: number) =>
  countFlag("seeds", 1).pipe(Flag.withDescription(`Seeds, from --seed on (default: ${count})`), Flag.withDefault(count))

/** Runs a command's body; what it throws is the command's failure. */
const attempt = (body: () => void | Promise<unknown>) =>
  Effect.tryPromise({ try: async () => void (await body()), catch: (error) => error })

const source = { scenario: scenarioArgument, ...scenarioFlags }

const runCommand = Command.make(
  "run",
  {
    ...source,
    json,
    html,
    perfetto: outputFile("perfetto", "Write the run's steps for ui.perfetto.dev or chrome://tracing"),
    why: outputFile("why", "Write, for every step, why each waiting request was or was not scheduled"),
    studio: outputFile("studio", "Write the scenario with its files, to be opened in the studio (npm run studio)"),
  },
  ({ scenario, json: toJson, html: toHtml, perfetto, why, studio, ...flags }) =>
    attempt(() => runScenario(readScenario(scenario, flags), { json: toJson, html: toHtml, perfetto, why, studio })),
).pipe(
  Command.withShortDescription("Simulate one scenario and print what `vllm bench serve` would"),
  Command.withDescription(
    "Simulate one scenario and print its latencies, throughput and goodput in the words of `vllm bench serve`. Ctrl-C ends it early and prints what is known by then, marked as partial.",
  ),
  Command.withExamples([
    {
      command: "uniprefill-sim run --trace mooncake-conversation-slice --rate-scale 0.5",
      description: "The shipped slice of a real trace, at half its rate",
    },
    {
      command: "uniprefill-sim run my.scenario.yaml --schedule off --json dense.json",
      description: "A scenario file with one field changed",
    },
    {
      command: "uniprefill-sim run --arrivals closed --clients 16 --prompt-tokens 32768",
      description: "16 clients, each with one 32K-token prompt at a time",
    },
  ]),
)

const compareCommand = Command.make(
  "compare",
  { ...source, seeds: seeds(3), html, json },
  ({ scenario, seeds: count, html: toHtml, json: toJson, ...flags }) =>
    attempt(() => compare(readScenario(scenario, flags), { seeds: count, html: toHtml, json: toJson })),
).pipe(
  Command.withShortDescription("Compare variants of a scenario on the same requests and draws"),
  Command.withDescription(
    "Compare the variants that a scenario lists (dense and dropping where it lists none), each on the same requests and random draws, for several seeds: means, and the difference to the first with its 95% interval.",
  ),
  Command.withExamples([
    {
      command: "uniprefill-sim compare --trace mooncake-conversation-slice --rate-scale 0.5 --html report.html",
      description: "Dense against dropping, with charts",
    },
  ]),
)

const sweepCommand = Command.make(
  "sweep",
  {
    ...source,
    measure: Flag.Literals("measure", measureNames as ReadonlyArray<string>).pipe(
      Flag.withDescription("Figure that the table and charts show (default: ttftP50)"),
      Flag.withDefault("ttftP50"),
    ),
    ratio: Flag.String("ratio").pipe(
      Flag.withMetavar("FIELD"),
      Flag.withDescription(
        "A field of two values in the sweep: show the measure at the first divided by that at the second",
      ),
      Flag.optional,
    ),
    threads: countFlag("threads", 1).pipe(
      Flag.withDescription("Worker threads (default: one a core)"),
      Flag.withDefault(availableParallelism()),
    ),
    html,
    json,
    csv: outputFile("csv", "Write a row for each point, with every measure"),
  },
  ({ scenario, measure, ratio, threads, html: toHtml, json: toJson, csv, ...flags }) =>
    attempt(() =>
      sweep(readScenario(scenario, flags), {
        measure: measure as (typeof measureNames)[number],
        ratio,
        threads,
        html: toHtml,
        json: toJson,
        csv,
      }),
    ),
).pipe(
  Command.withShortDescription("Run a scenario at every combination of listed values"),
  Command.withDescription(
    "Run a scenario at every combination of the values in its sweep.over, on worker threads. Results do not depend on the number of threads.",
  ),
  Command.withExamples([
    {
      command: "uniprefill-sim sweep speedup.scenario.yaml --ratio schedule --html speedup.html",
      description: "How many times sooner dropping answers, at every point",
    },
  ]),
)

const capacityCommand = Command.make(
  "capacity",
  {
    ...source,
    attainment: Flag.Finite("attainment").pipe(
      Flag.withDescription("Share of all offered requests that must meet the targets (default: 0.99)"),
      Flag.withDefault(0.99),
    ),
    low: Flag.Finite("low").pipe(
      Flag.withDescription("Lowest rate tried, requests a second (default: 0.25)"),
      Flag.withDefault(0.25),
    ),
    high: Flag.Finite("high").pipe(Flag.withDescription("Highest rate tried first (default: 8)"), Flag.withDefault(8)),
    points: countFlag("points", 2).pipe(Flag.withDescription("Rates tried first (default: 7)"), Flag.withDefault(7)),
    seeds: seeds(3),
    html,
  },
  ({ scenario, attainment, low, high, points, seeds: count, html: toHtml, ...flags }) =>
    attempt(() =>
      capacity(readScenario(scenario, flags), {
        attainment,
        low,
        high,
        points,
        seeds: count,
        html: toHtml,
      }),
    ),
).pipe(
  Command.withShortDescription("Find the largest rate that meets targets"),
  Command.withDescription(
    "Find the largest rate of arrivals at which a share of all offered requests meets its targets (--slo-ttft-ms, --slo-tpot-ms), for several seeds.",
  ),
  Command.withExamples([
    {
      command: "uniprefill-sim capacity --trace mooncake-conversation-slice --slo-ttft-ms 5000 --attainment 0.95",
      description: "With 95% of first tokens within 5 s",
    },
  ]),
)

const placementCommand = Command.make(
  "placement",
  {
    ...source,
    gpus: Flag.Int("gpus").pipe(Flag.withDescription("Devices in all (default: 8)"), Flag.withDefault(8)),
    gpusPerHost: Flag.Int("gpus-per-host").pipe(
      Flag.withDescription("Devices that are linked with each other: a replica stays within (default: 8)"),
      Flag.withDefault(8),
    ),
    length: Flag.Int("length").pipe(
      Flag.withMetavar("TOKENS"),
      Flag.withDescription("Prompt that times and capacities are predicted for (default: 32768)"),
      Flag.withDefault(32_768),
    ),
    json,
  },
  ({ scenario, gpus, gpusPerHost, length, json: toJson, ...flags }) =>
    Effect.gen(function* () {
      const { layouts } = yield* Placement
      yield* attempt(() =>
        placement(readScenario(scenario, flags), { gpus, gpusPerHost, length, json: toJson }, layouts),
      )
    }).pipe(Effect.provide(Placement.layer)),
).pipe(
  Command.withShortDescription("Find out how a model fits on so many devices: tensor parallel × replicas"),
  Command.withDescription(
    "Print every layout of a model on so many devices, tensor parallel × replicas: what a device holds, how many tokens and prompts fit, dense and dropping, and how soon a long prompt is answered, or why the layout does not fit. With a scenario file or flags of a workload, each layout serves it too. Targets are --slo-ttft-ms and --slo-tpot-ms, for a prompt alone. Exit code 1 when no layout works. The scenario's own tensorParallel and replicas are what is being decided.",
  ),
  Command.withExamples([
    {
      command: "uniprefill-sim placement --model llama-3.1-70b --device h200 --gpus 8",
      description: "A 70B model on eight H200",
    },
    {
      command: "uniprefill-sim placement --model llama-3.1-8b --gpus 4 --length 120000 --slo-ttft-ms 6000",
      description: "First tokens of 120K-token prompts within 6 s",
    },
    {
      command: "uniprefill-sim placement --gpus 2 --trace mooncake-conversation-slice --rate-scale 0.5",
      description: "One replica of two devices, or two of one, on a real trace",
    },
  ]),
)

const fitCommand = Command.make(
  "fit",
  {
    ...source,
    recorded: Flag.String("recorded").pipe(
      Flag.withMetavar("FILE"),
      Flag.withDescription("The recorded run: requests.jsonl with queued_ts, first_token_ts and last_token_ts"),
    ),
    fitted: countFlag("fitted", 10).pipe(
      Flag.withMetavar("REQUESTS"),
      Flag.withDescription("Requests fitted to, the first ones; the others are held out (default: 100)"),
      Flag.withDefault(100),
    ),
    out: outputFile("out", "Write the calibration"),
  },
  ({ scenario, recorded, fitted, out, ...flags }) =>
    attempt(() => fit(readScenario(scenario, flags), { recorded, fitted, out })),
).pipe(
  Command.withShortDescription("Fit a device to a recorded run: a calibration file, and its error on the rest"),
  Command.withDescription(
    "Simulate the workload of a recorded vLLM run, fit a factor on the device's rates and the time of a step to its first requests, and print the error on those held out. The calibration belongs to that device, model and tensor-parallel degree; elsewhere it is marked.",
  ),
  Command.withExamples([
    {
      command: "uniprefill-sim fit run.scenario.yaml --recorded requests.jsonl --out rtx-4090.calibration.json",
      description: "Then name the file with --calibration",
    },
  ]),
)

const explainCommand = Command.make(
  "explain",
  {
    ...source,
    step: countFlag("step", 1).pipe(Flag.withDescription("Number of the step, from 1")),
    replica: countFlag("replica", 0).pipe(Flag.withDescription("Replica, from 0 (default: 0)"), Flag.withDefault(0)),
  },
  ({ scenario, step, replica, ...flags }) => attempt(() => explain(readScenario(scenario, flags), { step, replica })),
).pipe(
  Command.withShortDescription("Say why a step takes as long as it does"),
  Command.withDescription(
    "Run a scenario up to a step and print what it holds, the parts of its time, whose sum is the step's, and why the prompts that wait do.",
  ),
  Command.withExamples([
    { command: "uniprefill-sim explain --trace mooncake-conversation-slice --step 500", description: "The 500th step" },
  ]),
)

const shrinkCommand = Command.make(
  "shrink",
  {
    ...source,
    swarm: countFlag("swarm", 0).pipe(
      Flag.withMetavar("COUNT"),
      Flag.withDescription("Check this many random scenarios, from --seed on, in place of the given one"),
      Flag.withDefault(0),
    ),
    out: outputFile("out", "Write the small scenario"),
  },
  ({ scenario, swarm, out, ...flags }) => attempt(() => shrink(readScenario(scenario, flags), { swarm, out })),
).pipe(
  Command.withShortDescription("Check a scenario's invariants, and make one that breaks them small"),
  Command.withDescription(
    "Run a scenario with every invariant checked after every instant. One that breaks something is made as small as it still breaks the same thing, and printed.",
  ),
  Command.withExamples([
    { command: "uniprefill-sim shrink --swarm 200 --seed 1", description: "200 random scenarios with faults" },
  ]),
)

const replayCommand = Command.make(
  "replay",
  {
    recording: Argument.String("recording").pipe(
      Argument.withDescription("A *.recording.jsonl.gz of `uniprefill serve --record`"),
    ),
    policy: Flag.String("policy").pipe(
      Flag.withMetavar("FILE"),
      Flag.withDescription("Module of the policy, where the recording was made with one of your own"),
      Flag.optional,
    ),
  },
  ({ recording, policy }) => attempt(() => replay(recording, policy)),
).pipe(
  Command.withShortDescription("Replay a recorded production run: the same decisions, or the first that differs"),
  Command.withDescription(
    "Run the events of a recorded production run through this build's serving loop and compare every plan. Prints that all are identical, or the first that differs, with exit code 1.",
  ),
  Command.withExamples([
    {
      command: "uniprefill-sim replay monday.recording.jsonl.gz",
      description: "Before an upgrade: would it decide the same?",
    },
  ]),
)

const simCommand = Command.make("uniprefill-sim", {}, () => attempt(showExample)).pipe(
  Command.withDescription(
    "Simulate serving with token-dropping prefill: the production scheduler under a virtual clock, on real traces, before you pay for GPUs. Without a command: dense against dropping on a shipped slice of a real trace, with a report.",
  ),
  Command.withSubcommands([
    runCommand,
    compareCommand,
    sweepCommand,
    capacityCommand,
    placementCommand,
    fitCommand,
    explainCommand,
    shrinkCommand,
    replayCommand,
  ]),
)

/** A wrong command line gets the error and the way to help; the whole of help would scroll the error away. */
const presenter: CliOutput.Presenter = {
  present: (event) => {
    if (event._tag !== "InvalidInvocation") return CliOutput.defaultPresenter.present(event)
    const errors = event.errors.map((error) => `uniprefill-sim: ${plainly(error.message)}\n`).join("")
    return Effect.sync(() => void process.stderr.write(`${errors}See ${event.commandPath.join(" ")} --help\n`))
  },
}

const presented = <A, E, R>(program: Effect.Effect<A, E, R>) =>
  program.pipe(
    Effect.provide(CliOutput.layerPresenter(presenter)),
    Effect.provide(
      CliConfig.layer({
        builtIns: [GlobalFlag.Help, GlobalFlag.Version, GlobalFlag.Completions, GlobalFlag.LogLevel],
      }),
    ),
  )

export const run = presented(Command.run(simCommand, { version }))

const runArguments = Command.runWith(simCommand, { version })

/** The same with arguments that are given. */
export const runWith = (args: ReadonlyArray<string>) => presented(runArguments(args))
