import { type EngineConfig, layer } from "@uniprefill/engine/EngineLayer"
import { Executor } from "@uniprefill/executor/contract/Executor"
import { fromRunner } from "@uniprefill/executor/reference/ReferenceExecutor"
import { makeReferenceModel, referenceSpec } from "@uniprefill/executor/reference/ReferenceModel"
import { ReferenceRunner } from "@uniprefill/executor/reference/ReferenceRunner"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import { ItemField, sectionWidths } from "@uniprefill/scheduler/StepPlan"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect, Layer } from "effect"
import { needle } from "./EngineHarness.ts"

/** Drops half after the first of three layers, in prompts of 200 tokens and more. */
const schedule: DropSchedule = {
  dropLayers: [{ layer: 0, p: 0.5 }],
  rule: "exclusive",
  block: 16,
  sink: 16,
  lastQ: 32,
  minPromptTokens: 200,
  windowBy: "kept",
}

/** A small random model that is really computed, over the vocabulary of needle-10m-deep. */
export class ReferenceMachine {
  readonly spec: ModelSpec
  readonly runner: ReferenceRunner
  /** Rows of the first segment that were computed, those of decoding left out. */
  promptRows = 0
  private readonly executor: Layer.Layer<Executor>

  constructor(options: { readonly slots?: number; readonly slabs?: number } = {}) {
    this.spec = referenceSpec({ layers: ["full", "full", "full"], vocab: 4096, hidden: 8, intermediate: 8 })
    const model = makeReferenceModel(this.spec, 5)
    this.runner = new ReferenceRunner({ model, schedule, slabs: 400, slots: 8, ...options })
    const service = fromRunner(this.runner)
    this.executor = Layer.succeed(Executor, {
      ...service,
      enqueue: (plan) =>
        Effect.suspend(() => {
          const { data, length } = plan.items
          for (let i = 0; i < length; i += sectionWidths.items) {
            if (data[i + ItemField.firstSegment] === 0) this.promptRows += data[i + ItemField.rows]!
          }
          return service.enqueue(plan)
        }),
    })
  }

  engine(config: Partial<EngineConfig> = {}) {
    return layer({
      spec: this.spec,
      schedule,
      costModel: { stepMicros: (load) => load.decodeRows + load.rows.reduce((sum, rows) => sum + rows, 0) },
      modelName: "reference",
      stepBudgetMicros: 150,
      ...config,
    }).pipe(Layer.provideMerge(Layer.mergeAll(this.executor, Tokenizer.layer({ directory: needle }))))
  }
}
