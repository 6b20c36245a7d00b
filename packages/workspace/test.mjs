import { ensureBuilt } from "./src/Build.mjs"
import { documentation, runChecks } from "./src/Checks.mjs"
import { main } from "./src/Child.mjs"
import { ensureInstalled } from "./src/Install.mjs"
import { runNative, runVitest } from "./src/Suites.mjs"
import { report } from "./src/Tally.mjs"
import { Failure, say } from "./src/Terminal.mjs"

/** `npm test`: installs, builds, checks and runs every suite; the last line says what came of it. */
main(async () => {
  try {
    await ensureInstalled()
    await ensureBuilt()
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    say([error.message, error.advice || ""].join("\n"))
    return report([["build", { passed: 0, failed: 1, skips: [] }]])
  }
  const checks = await runChecks([documentation])
  const native = await runNative("plain")
  const vitest = await runVitest([])
  const sanitized = await runNative("sanitized")
  return report([
    ["checks", checks],
    ["native", native],
    ["vitest", vitest],
    ["native under sanitizers", sanitized],
  ])
})
