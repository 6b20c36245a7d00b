import { createRequire } from "node:module"
import { availableParallelism } from "node:os"
import { dirname } from "node:path"
import { cpuDefaults, cudaDefaults } from "@uniprefill/executor-native/NativeExecutor"
import { simulatedDefaults } from "@uniprefill/executor/simulated/SimulatedExecutor"
import { defaultTokenBudget, policyNames } from "@uniprefill/scheduler/policies/PolicyByName"
import { servingDefaults } from "@uniprefill/scheduler/ServingDefaults"
import * as Kind from "./OptionKinds.ts"
import type { OptionValues } from "./Options.ts"

const require = createRequire(import.meta.url)

/** Folder of the model that comes with the product. */
export const embeddedModel = (): string => dirname(require.resolve("@uniprefill/needle-10m-deep/package.json"))

/** How long a step may take, while requests decode and while none does: as told, or as on such a device where nothing is said. */
export const stepBudgets = (isCuda: boolean, stepBudgetMs?: number) => {
  const device = isCuda ? "cuda" : "cpu"
  const stepBudgetMicros =
    stepBudgetMs === undefined ? servingDefaults.stepBudgetMicros[device] : Math.round(1000 * stepBudgetMs)
  const idleStepBudgetMicros = Math.max(stepBudgetMicros, servingDefaults.idleStepBudgetMicros[device])
  return { stepBudgetMicros, idleStepBudgetMicros }
}

const { cpu, cuda } = servingDefaults.stepBudgetMicros

/** What every command that loads a model can be told. */
export const modelOptions = {
  model: Kind.optionalText({
    metavar: "DIR",
    description: "Model directory in the Hugging Face layout: config.json, tokenizer.json, *.safetensors",
    shownDefault: "the embedded needle-10m-deep",
  }),
  "max-model-len": Kind.optionalInteger({
    metavar: "TOKENS",
    description: "Longest prompt and output together",
    shownDefault: "what the model was made for",
    minimum: 2,
    maximum: 0x7fff_ffff,
  }),
  "max-num-seqs": Kind.integer({
    metavar: "N",
    description: "Requests that run at the same time; further ones wait",
    defaultValue: cpuDefaults.slots,
    minimum: 1,
    maximum: 1024,
  }),
  executor: Kind.choice({
    metavar: "auto|cuda|cpu|sim",
    description:
      "What runs the model: a CUDA device, else the CPU (auto), or one of them. sim takes the time that a model would take " +
      "and makes the answers up",
    choices: ["auto", "cuda", "cpu", "sim"],
    defaultValue: "auto",
  }),
  "drop-schedule": Kind.optionalText({
    metavar: "off|preset:NAME|FILE",
    description: "Layers that drop tokens, and how hard. off serves dense",
    shownDefault: "uniprefill.json beside the model, else dense",
  }),
  "step-budget-ms": Kind.optionalInteger({
    metavar: "MS",
    description: "Predicted time of a step while requests decode. Lower: steadier tokens. Higher: faster prefill",
    shownDefault: `${cpu / 1000}, on a CUDA device ${cuda / 1000}`,
    minimum: 1,
    maximum: 600_000,
  }),
  "page-size": Kind.multiple({
    metavar: "ROWS",
    description: "Rows of a KV page, a multiple of 64",
    defaultValue: cpuDefaults.pageSize,
    of: 64,
    minimum: 64,
    maximum: 4096,
  }),
  "cost-model": Kind.optionalText({
    metavar: "FILE",
    description: "What this machine can do, to predict step times from",
    shownDefault: "a table for CPUs or for CUDA devices",
  }),
  "kv-memory": Kind.bytes({
    metavar: "SIZE",
    description: "Memory for keys and values on the CPU, all ranks together, with its unit: 512MiB, 4GiB",
    defaultValue: "1GiB",
    minimum: 1024 * 1024,
  }),
  "gpu-memory-fraction": Kind.number({
    metavar: "SHARE",
    description: "Share of a CUDA device's memory to use, weights included",
    defaultValue: cudaDefaults.memoryFraction,
    minimum: 0.01,
    maximum: 1,
  }),
  quantization: Kind.choice({
    metavar: "none|fp8",
    description:
      "fp8 multiplies the layers' matrices in 8 bits: half the memory for them, faster prompts on a CUDA device, answers that " +
      "differ a little. On the CPU it shows those answers and makes nothing faster",
    choices: ["none", "fp8"],
    defaultValue: "none",
  }),
  "prefill-sparsity": Kind.optionalNumber({
    metavar: "SHARE",
    description:
      "Rows of prompts read only the blocks of keys that hold this share of their attention, by a sample, in layers of full " +
      "attention that drop nothing. Faster long prompts on a CUDA device, answers that may differ: measure yours with accuracy",
    shownDefault: "all keys are read",
    minimum: 0.01,
    maximum: 0.999,
  }),
  policy: Kind.text({
    metavar: "NAME|FILE",
    description:
      `Order in which prompts are served: ${policyNames.join(", ")}, or a module (.js, .ts) with one. priority goes by ` +
      "the request field priority, earliest-deadline by ttft_slo_ms, fair-share by the API key",
    defaultValue: "fcfs",
  }),
  "max-num-batched-tokens": Kind.optionalInteger({
    metavar: "N",
    description: "Rows of a step under --policy token-budget",
    shownDefault: String(defaultTokenBudget.maxNumBatchedTokens),
    minimum: 65,
    maximum: 1_000_000,
  }),
  "prefix-caching": Kind.choice({
    metavar: "on|off",
    description: "Whether prompts that start alike share what was computed",
    choices: ["on", "off"],
    defaultValue: "on",
  }),
  record: Kind.optionalText({
    metavar: "FILE",
    description: "Write every scheduling decision to FILE (.recording.jsonl.gz), to be replayed; no text is in it",
    shownDefault: "nothing is recorded",
  }),
  "time-scale": Kind.number({
    metavar: "X",
    description: "With --executor sim: 1 is real time, 0.1 ten times as fast, 0 no waiting",
    defaultValue: 1,
    minimum: 0,
    maximum: 1000,
  }),
  "sim-output": Kind.choice({
    metavar: "echo|random",
    description: "With --executor sim: answers repeat the prompt, or are drawn at random",
    choices: ["echo", "random"],
    defaultValue: simulatedDefaults.output,
  }),
  "sim-failure-rate": Kind.number({
    metavar: "SHARE",
    description: "With --executor sim: share of steps that fail",
    defaultValue: simulatedDefaults.failureRate,
    minimum: 0,
    maximum: 1,
  }),
  "sim-seed": Kind.integer({
    metavar: "N",
    description: "With --executor sim: another seed draws other answers and failures",
    defaultValue: simulatedDefaults.seed,
    minimum: 0,
    maximum: 0x7fff_ffff,
  }),
  "tensor-parallel-size": Kind.integer({
    metavar: "N",
    description:
      "Ranks that share the model's heads and widths: CUDA devices from the first on, each with 1/N of the layers' weights and of " +
      "keys and values. N must divide the heads. On the CPU groups of threads, which makes nothing faster but shows what N devices do",
    defaultValue: 1,
    minimum: 1,
    maximum: 64,
  }),
  threads: Kind.integer({
    metavar: "N",
    description: "Threads that compute, those of all ranks together",
    defaultValue: availableParallelism(),
    minimum: 1,
    maximum: 1024,
  }),
}

export type ModelSettings = OptionValues<typeof modelOptions>
