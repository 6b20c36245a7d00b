/**
 * What `uniprefill accuracy` saves by asking all variants of a prompt with one prefix cache, beside asking each from its first token:
 * `node --conditions=source test/bench/sharedVariants.ts [tokens] [prompts]`. Both in turn, prompt by prompt, on the CPU with the
 * embedded model; times are from submission to the end of the answer, of dense and three p.
 */
import { Engine } from "@uniprefill/engine/Engine"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Clock, Context, Effect, Layer, References } from "effect"
import * as EngineLive from "uniprefill/model/EngineLive"
import { executorLive } from "uniprefill/model/ExecutorLive"
import { modelOptions, type ModelSettings } from "uniprefill/options/ModelOptions"
import { ask, promptMaker, readHaystack } from "uniprefill/quality/Asking"
import { median } from "uniprefill/quality/Statistics"
import { trainedKinds } from "uniprefill/quality/Tasks"

const [tokens = 4096, prompts = 10] = process.argv.slice(2).map(Number)
const defaults = Object.fromEntries(
  Object.entries(modelOptions).map(([name, { defaultValue }]) => [name, defaultValue]),
)
const variants = [1, 0.9, 0.95, 0.99]

const engineOf = (prefixCaching: "on" | "off") =>
  Layer.build(
    EngineLive.layer(
      { ...defaults, executor: "cpu", "prefix-caching": prefixCaching } as ModelSettings,
      [],
      executorLive,
    ),
  )

const program = Effect.gen(function* () {
  const sides = { shared: yield* engineOf("on"), separate: yield* engineOf("off") }
  const make = yield* promptMaker(yield* readHaystack(undefined)).pipe(
    Effect.provideService(Tokenizer, Context.get(sides.shared, Tokenizer)),
  )
  const millis = { shared: Array<number>(), separate: Array<number>() }
  for (let number = -1; number < prompts; number++) {
    const kind = trainedKinds[(number + 1) % trainedKinds.length]!
    const { prompt } = yield* make(kind, tokens, 1, number + 1)
    for (const side of ["shared", "separate"] as const) {
      const began = yield* Clock.currentTimeMillis
      for (const minP of variants) {
        const question = {
          requestId: `${side}-${number}-${minP}`,
          prompt: prompt.tokens,
          drop: true,
          minP,
          maxTokens: 32,
        }
        yield* ask(question).pipe(Effect.provideService(Engine, Context.get(sides[side], Engine)))
      }
      // The first prompt warms up.
      if (number >= 0) millis[side].push((yield* Clock.currentTimeMillis) - began)
    }
  }
  const ratios = millis.shared.map((shared, i) => shared / millis.separate[i]!)
  const device = Context.get(sides.shared, Engine).model.executor.device
  console.log(`${device}: ${prompts} prompts of ${tokens} tokens, dense and p ${variants.slice(1).join(", ")}`)
  console.log(`shared    ${median(millis.shared).toFixed(0)} ms a prompt, median`)
  console.log(`separate  ${median(millis.separate).toFixed(0)} ms`)
  const [least, most] = [Math.min(...ratios), Math.max(...ratios)]
  console.log(`ratio     ${median(ratios).toFixed(2)} (${least.toFixed(2)} to ${most.toFixed(2)})`)
})

await Effect.runPromise(Effect.scoped(Effect.provideService(program, References.MinimumLogLevel, "Warn")))
