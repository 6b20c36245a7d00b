/**
 * The official openai client against `uniprefill serve` on a device: the cases that CI runs against the simulated executor.
 *
 *     node --conditions=source test/gpu/clients.ts [cuda|cpu]
 */
import { openAiCases, openAiTarget } from "../e2e/OpenAiCases.ts"
import { ServeProcess } from "../e2e/ServeProcess.ts"

const [executor = "cuda"] = process.argv.slice(2)
const server = await ServeProcess.start("--executor", executor, "--api-key", "sesame", "--log-level", "warn")
let failed = 0
for (const [name, run] of Object.entries(openAiCases)) {
  const problem = await run(openAiTarget(server.url, "needle-10m-deep")).then(
    () => null,
    (error: unknown) => (error instanceof Error ? error.message : String(error)),
  )
  console.log(`${problem === null ? "ok    " : "FAILED"} ${name}${problem === null ? "" : `: ${problem}`}`)
  if (problem !== null) failed++
}
await server[Symbol.asyncDispose]()
console.log(failed === 0 ? `the openai client is served on ${executor}` : `${failed} cases failed on ${executor}`)
if (failed > 0) process.exitCode = 1
