import { Effect, Option, References } from "effect"
import { Argument, CliConfig, CliOutput, Command, Flag, GlobalFlag } from "effect/cli"
import { benchOptions } from "../bench/BenchOptions.ts"
import { benchServe } from "../bench/BenchServe.ts"
import { demo } from "../demo/Demo.ts"
import { demoOptions } from "../options/DemoOptions.ts"
import { executorLive } from "../model/ExecutorLive.ts"
import { benchDecode, benchPrefill } from "../bench/BenchCommand.ts"
import { benchOps } from "../bench/BenchOps.ts"
import {
  benchDecodeOptions,
  benchOpsOptions,
  benchPrefillOptions,
  synthModelOptions,
} from "../bench/EngineBenchOptions.ts"
import { generate } from "./GenerateCommand.ts"
import { generateOptions } from "../options/GenerateOptions.ts"
import { flagsOf, type GivenFlags, type OptionTable, resolveOptions } from "../options/Options.ts"
import { accuracy } from "../quality/AccuracyCommand.ts"
import { calibrateCommand as calibrate } from "../quality/CalibrateCommand.ts"
import { calibrateOptions } from "../options/CalibrateOptions.ts"
import { inspectCommand as inspect } from "../quality/InspectCommand.ts"
import { inspectOptions } from "../options/InspectOptions.ts"
import { accuracyOptions } from "../options/AccuracyOptions.ts"
import * as Logging from "../http/Logging.ts"
import { serve } from "./ServeCommand.ts"
import { serveOptions } from "../options/ServeOptions.ts"
import { version } from "../Version.ts"
import { synthModel } from "./SynthModelCommand.ts"

/** What a config file may hold: the options of every command. */
const tables = [
  serveOptions,
  generateOptions,
  demoOptions,
  accuracyOptions,
  inspectOptions,
  calibrateOptions,
  benchPrefillOptions,
  benchDecodeOptions,
  benchOpsOptions,
  synthModelOptions,
]
const allNames = [...new Set(tables.flatMap((table) => Object.keys(table)))]

const resolve = <Table extends OptionTable>(table: Table, flags: GivenFlags<Table>) =>
  resolveOptions(table, flags, process.env, allNames)

/** Only warnings are worth a line beside an answer, unless --log-level asks for more. */
const quietly = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const level = Option.getOrElse(yield* GlobalFlag.LogLevel, () => "Warn" as const)
    return yield* Effect.provideService(effect, References.MinimumLogLevel, level)
  }).pipe(Effect.provide(Logging.layer("text")))

const serveCommand = Command.make(
  "serve",
  flagsOf(serveOptions),
  Effect.fnUntraced(function* (flags) {
    return yield* serve(yield* resolve(serveOptions, flags), executorLive)
  }),
).pipe(
  Command.withShortDescription("Serve a model over an OpenAI-compatible HTTP API"),
  Command.withDescription(
    "Serve a model over an OpenAI-compatible HTTP API: /v1/models, /v1/completions, /v1/chat/completions, /v1/responses, " +
      "/v1/messages, /tokenize, /detokenize, /health, /ready, /metrics, /version. SIGTERM or Ctrl-C lets running requests " +
      "finish; a second one stops at once. Every option can also be set in the environment, --max-model-len as " +
      "UNIPREFILL_MAX_MODEL_LEN, or in the file that --config names.",
  ),
  Command.withExamples([
    { command: "uniprefill serve", description: "Serve the embedded model on http://127.0.0.1:8000" },
    {
      command: "uniprefill serve --model ./Llama-3.1-8B --drop-schedule preset:llama-3.1-8b",
      description: "Drop tokens with the paper's schedule for this model",
    },
    {
      command: "uniprefill serve --drop-schedule off",
      description: "The same answers as any dense server, at its speed",
    },
    {
      command: "UNIPREFILL_API_KEY=secret uniprefill serve --host 0.0.0.0",
      description: "Open to the network, for clients that have the key",
    },
  ]),
)

const generateCommand = Command.make(
  "generate",
  {
    ...flagsOf(generateOptions),
    prompt: Argument.String("prompt").pipe(
      Argument.withDescription("The text to continue; without it, standard input is read"),
      Argument.optional,
    ),
  },
  Effect.fnUntraced(function* ({ prompt, ...flags }) {
    return yield* quietly(generate(yield* resolve(generateOptions, flags), prompt, executorLive))
  }),
).pipe(
  Command.withShortDescription("Answer one prompt on the terminal"),
  Command.withDescription(
    "Answer one prompt: the text goes to standard output as it is made, and how it went to standard error where that " +
      "is a terminal. The line break that ends standard input is not part of the prompt.",
  ),
  Command.withExamples([
    { command: 'uniprefill generate "Once upon a time" --max-tokens 32', description: "Continue a text" },
    { command: "uniprefill generate < prompt.txt > answer.txt", description: "From a file to a file" },
    { command: "uniprefill generate --drop-schedule off < prompt.txt", description: "The same, with no token dropped" },
  ]),
)

const demoCommand = Command.make(
  "demo",
  {
    ...flagsOf(demoOptions),
    json: Flag.Boolean("json").pipe(
      Flag.withDescription("Print the result as JSON instead of a picture"),
      Flag.withDefault(false),
    ),
  },
  Effect.fnUntraced(function* ({ json, ...flags }) {
    return yield* quietly(demo(yield* resolve(demoOptions, flags), json, executorLive))
  }),
).pipe(
  Command.withShortDescription("Find a sentence in a long text, dense and with token dropping"),
  Command.withDescription(
    "Hide a sentence in a long text and ask for it, once dense and once with token dropping: time to the first token, " +
      "rows kept, a picture of the blocks that stayed, and both answers.",
  ),
  Command.withExamples([
    { command: "uniprefill demo", description: "A text of 8192 tokens" },
    { command: "uniprefill demo --tokens 16384 --repeat 3", description: "A longer one, medians of three" },
  ]),
)

const accuracyCommand = Command.make(
  "accuracy",
  {
    ...flagsOf(accuracyOptions),
    json: Flag.Boolean("json").pipe(
      Flag.withDescription("Print the result as JSON instead of a table"),
      Flag.withDefault(false),
    ),
  },
  Effect.fnUntraced(function* ({ json, ...flags }) {
    return yield* quietly(accuracy(yield* resolve(accuracyOptions, flags), json, executorLive))
  }),
).pipe(
  Command.withShortDescription("Measure what token dropping costs a model in right answers"),
  Command.withDescription(
    "Ask questions about sentences hidden in long texts, dense and with the model's drop schedule: right answers with 95% intervals, " +
      "what was lost and won against dense (exact McNemar test), divergence of the first token, rows kept, time to the first " +
      "token. Variants share what they compute up to the first drop layer; dense is p = 1, which keeps every block. Times are of " +
      "prompts whose first layers nobody had computed. Retrieval is where dropping is strongest; first, common and count are " +
      "where it is weakest. A model that cannot do a task dense tells nothing about dropping there.",
  ),
  Command.withExamples([
    { command: "uniprefill accuracy", description: "The embedded model, ten prompts of each task, 4096 tokens" },
    {
      command: "uniprefill accuracy --tasks number,list --tokens 4096,8192,16384 --html accuracy.html",
      description: "Heat maps by depth and length",
    },
    {
      command: "uniprefill accuracy --model ./model --drop-schedule mine.json --p 0.95,0.99",
      description: "A schedule of one's own, and milder ones",
    },
    { command: "uniprefill accuracy --cases support.jsonl --json", description: "One's own prompts and answers" },
  ]),
)

const calibrateCommand = Command.make(
  "calibrate",
  {
    ...flagsOf(calibrateOptions),
    json: Flag.Boolean("json").pipe(
      Flag.withDescription("Print the result as JSON instead of a table"),
      Flag.withDefault(false),
    ),
  },
  Effect.fnUntraced(function* ({ json, ...flags }) {
    return yield* quietly(calibrate(yield* resolve(calibrateOptions, flags), json, executorLive))
  }),
).pipe(
  Command.withShortDescription("Find the layers where a model may drop tokens, and write its drop schedule"),
  Command.withDescription(
    "Which layers may drop, and at which p, is a property of a model's weights. This asks questions about hidden sentences with " +
      "each full-attention layer dropping alone, then with safe layers together, and chooses the schedule with the least predicted " +
      "time to the first token that stays within the budget: --max-kl for the divergence of answers from dense, --max-loss for " +
      "answers lost. The choice is checked on --check-prompts prompts of each task that it was not chosen by; where it fails, the " +
      "layer that is to blame goes and the next best is checked. The file names the model by its fingerprint and is refused for " +
      "another. A model where no layer is safe gets a schedule that drops nothing. What it costs in right answers, uniprefill " +
      "accuracy says with another seed. Ended early, the same command goes on where it was.",
  ),
  Command.withExamples([
    { command: "uniprefill calibrate", description: "The embedded model; writes ./uniprefill.json" },
    {
      command: "uniprefill calibrate --model ./model --out ./model/uniprefill.json --tokens 8192 --prompts 10",
      description: "Where serve finds it",
    },
    {
      command: "uniprefill accuracy --drop-schedule uniprefill.json --seed 2",
      description: "What it costs on prompts that it was not chosen by",
    },
  ]),
)

const inspectCommand = Command.make(
  "inspect",
  {
    ...flagsOf(inspectOptions),
    json: Flag.Boolean("json").pipe(
      Flag.withDescription("Print the result as JSON instead of a shaded text"),
      Flag.withDefault(false),
    ),
  },
  Effect.fnUntraced(function* ({ json, ...flags }) {
    return yield* quietly(inspect(yield* resolve(inspectOptions, flags), json, executorLive))
  }),
).pipe(
  Command.withShortDescription("Show which parts of a prompt are kept, and by which layers"),
  Command.withDescription(
    "Print a prompt shaded by the last selection that keeps each part of it: what is dropped first is faintest, and what every " +
      "layer sees stands out. Then what each drop layer would keep at other p, with the selections before it as they are. " +
      "The page and the JSON also have the attention mass by block. The prompt is asked dense too, so that a wrong answer " +
      "can be laid at the right door.",
  ),
  Command.withExamples([
    { command: "uniprefill inspect --prompt prompt.txt", description: "On the terminal" },
    { command: "uniprefill inspect --html kept.html < prompt.txt", description: "As a page too" },
  ]),
)

const benchServeCommand = Command.make(
  "serve",
  flagsOf(benchOptions),
  Effect.fnUntraced(function* (flags) {
    return yield* benchServe(yield* resolveOptions(benchOptions, flags, process.env, Object.keys(benchOptions)))
  }),
).pipe(
  Command.withShortDescription("Measure a running server as its clients see it"),
  Command.withDescription(
    "Send requests to a server with an OpenAI-compatible API, this one or another, and report throughput, time to the first " +
      "token and time between tokens. Options and words are those of vllm bench serve.",
  ),
  Command.withExamples([
    {
      command: "uniprefill bench serve --num-prompts 200 --request-rate 10",
      description: "Random prompts of 1,024 tokens",
    },
    {
      command: "uniprefill bench serve --dataset-name timed-trace --dataset-path trace.jsonl",
      description: "A recorded trace at its own times",
    },
    {
      command: "uniprefill bench serve --backend openai-chat --goodput ttft:500,tpot:50",
      description: "Chats, and how many keep both promises",
    },
  ]),
)

const jsonFlag = Flag.Boolean("json").pipe(Flag.withDescription("Print the result as JSON"), Flag.withDefault(false))

const benchPrefillCommand = Command.make(
  "prefill",
  { ...flagsOf(benchPrefillOptions), json: jsonFlag },
  Effect.fnUntraced(function* ({ json, ...flags }) {
    return yield* quietly(benchPrefill(yield* resolve(benchPrefillOptions, flags), json))
  }),
).pipe(
  Command.withShortDescription("Time to the first token, dense and with token dropping"),
  Command.withDescription(
    "Time to the first token of random prompts, one at a time, dense and with token dropping in turn. A model with random " +
      "weights needs --keep-profile; its numbers are then marked as synthetic.",
  ),
  Command.withExamples([
    { command: "uniprefill bench prefill --input-len 4096,16384", description: "The embedded model" },
    {
      command: "uniprefill bench prefill --model ./synthetic --input-len 131072 --keep-profile .74,.64,.54,.44,.34,.24",
      description: "A synthetic model, with keeps as given",
    },
  ]),
)

const benchDecodeCommand = Command.make(
  "decode",
  { ...flagsOf(benchDecodeOptions), json: jsonFlag },
  Effect.fnUntraced(function* ({ json, ...flags }) {
    return yield* quietly(benchDecode(yield* resolve(benchDecodeOptions, flags), json))
  }),
).pipe(
  Command.withShortDescription("Time between output tokens of requests that decode together"),
  Command.withDescription(
    "Time between output tokens of requests that decode together, once all their prompts are done.",
  ),
  Command.withExamples([
    { command: "uniprefill bench decode --num-prompts 64 --input-len 2048", description: "64 requests of 2048 tokens" },
  ]),
)

const benchOpsCommand = Command.make(
  "ops",
  { ...flagsOf(benchOpsOptions), json: jsonFlag },
  Effect.fnUntraced(function* ({ json, ...flags }) {
    return yield* quietly(benchOps(yield* resolve(benchOpsOptions, flags), json))
  }),
).pipe(
  Command.withShortDescription("Operations of a step one by one, and the calibration file that predicts them"),
  Command.withDescription(
    "Times steps of the executor without a scheduler: copies, prompts by rows, chunks by what is before them, decode by rows and context, " +
      "selections, prompts that drop in one step, and what the host adds. Makes a calibration of it, which the server plans by (--cost-model) and uniprefill-sim " +
      "predicts by, and says how well it predicts the steps that it was made from.",
  ),
  Command.withExamples([
    { command: "uniprefill bench ops --out cpu.calibration.json", description: "This machine with the embedded model" },
    {
      command:
        "uniprefill bench ops --executor cuda --model ./synthetic --input-len 131072 --out h100.calibration.json",
      description: "A GPU with a synthetic model, up to 131072 tokens",
    },
  ]),
)

const benchCommand = Command.make("bench").pipe(
  Command.withShortDescription("Measure a running server, or how fast this machine serves a model"),
  Command.withDescription("Measure a running server as its clients see it, or this machine through the whole engine."),
  Command.withSubcommands([benchServeCommand, benchPrefillCommand, benchDecodeCommand, benchOpsCommand]),
)

const synthModelCommand = Command.make(
  "synth-model",
  {
    ...flagsOf(synthModelOptions),
    directory: Argument.String("directory").pipe(Argument.withDescription("Where to write the model")),
  },
  Effect.fnUntraced(function* ({ directory, ...flags }) {
    return yield* quietly(synthModel(yield* resolve(synthModelOptions, flags), directory))
  }),
).pipe(
  Command.withShortDescription("Write a model of random weights, to be timed"),
  Command.withDescription(
    "Write a model directory with the shape of a known model and random weights. Its answers mean nothing and its scores " +
      "choose nothing sensible: time it with `uniprefill bench` and --keep-profile.",
  ),
  Command.withExamples([
    { command: "uniprefill synth-model --like llama-3.1-8b ./synthetic", description: "16 GB, 32 layers" },
    { command: "uniprefill synth-model --layers 4 ./small", description: "Four layers of the same shape" },
  ]),
)

const root = Command.make("uniprefill").pipe(
  Command.withDescription(
    "Long-context LLM serving with token-dropping prefill: at some layers of a long prompt, the blocks of tokens that its " +
      "end pays no attention to leave the computation. Comes with a small model to try it on.",
  ),
  Command.withSubcommands([
    serveCommand,
    generateCommand,
    demoCommand,
    accuracyCommand,
    calibrateCommand,
    inspectCommand,
    benchCommand,
    synthModelCommand,
  ]),
  Command.withExamples([
    { command: "uniprefill serve", description: "Serve the embedded model on http://127.0.0.1:8000" },
    { command: 'uniprefill generate "Once upon a time"', description: "Answer one prompt on the terminal" },
    { command: "uniprefill demo", description: "See what token dropping does to a long prompt" },
    { command: "uniprefill serve --help", description: "Every option with its default" },
  ]),
)

/** A wrong command line gets the error and the way to help; the whole of help would scroll the error away. */
const presenter: CliOutput.Presenter = {
  present: (event) => {
    if (event._tag !== "InvalidInvocation") return CliOutput.defaultPresenter.present(event)
    const errors = event.errors.map((error) => `uniprefill: ${error.message}\n`).join("")
    return Effect.sync(() => void process.stderr.write(`${errors}See ${event.commandPath.join(" ")} --help\n`))
  },
}

/** Runs the command line of this process. */
export const run = Command.run(root, { version }).pipe(
  Effect.provide(CliOutput.layerPresenter(presenter)),
  Effect.provide(
    CliConfig.layer({
      builtIns: [GlobalFlag.Help, GlobalFlag.Version, GlobalFlag.Completions, GlobalFlag.LogLevel],
    }),
  ),
)
