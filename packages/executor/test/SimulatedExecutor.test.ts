import { denseSchedule } from "@uniprefill/model/DropSchedule"
import { readModelConfig } from "@uniprefill/model/ModelConfig"
import { Executor } from "@uniprefill/executor/contract/Executor"
import { layerSim } from "@uniprefill/executor/simulated/SimulatedExecutor"
import { Effect } from "effect"
import { expect, it } from "vitest"
import { tinyConfigs } from "../../../test/golden/tinyConfigs.ts"

const { spec } = readModelConfig("config.json", tinyConfigs["llama-gqa"]!.config)

const weightBytes = (tensorParallel: number, quantization?: "none" | "fp8") =>
  Effect.runPromise(
    Effect.map(Executor, ({ info }) => info.ranks!.map((rank) => rank.weightBytes)).pipe(
      Effect.provide(
        layerSim({
          spec,
          schedule: denseSchedule,
          tensorParallel,
          quantization,
          costModel: () => ({ stepMicros: () => 1 }),
          timeScale: 0,
          memoryBytes: 1 << 24,
        }),
      ),
    ),
  )

it("tells the bytes of weights in eight bits where the model is quantised", async () => {
  // Three layers of qkv 128 × 64, o 64 × 64, gate and up 192 × 64, down 64 × 96; norms beside them, embedding and lm_head.
  const layers = 3 * (128 * 64 + 64 * 64 + 192 * 64 + 64 * 96)
  const rest = 7 * 64 + 2 * 64 * 64
  expect(await weightBytes(1)).toEqual([2 * (layers + rest)])
  expect(await weightBytes(1, "fp8")).toEqual([layers + 2 * rest + 4 * 3 * (128 + 64 + 192 + 64)])
  const [one, other] = await weightBytes(2, "fp8")
  expect(other).toBe(one)
  expect(one).toBe(layers / 2 + 7 * 64 + 2 * 2 * 64 * 64 + 4 * 3 * (64 + 64 + 96 + 64))
})
