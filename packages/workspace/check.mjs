import { ensureBuilt } from "./src/Build.mjs"
import { runChecks } from "./src/Checks.mjs"
import { main } from "./src/Child.mjs"
import { ensureInstalled } from "./src/Install.mjs"
import { runVitest } from "./src/Suites.mjs"
import { report } from "./src/Tally.mjs"
import { Failure, say } from "./src/Terminal.mjs"

/**
 * `npm run check`: the fast inner loop. Format, lint, types, layering and the packages' own tests; these run from source,
 * so they say something even while the build is broken.
 */
main(async () => {
  await ensureInstalled()
  const build = { passed: 0, failed: 0, skips: [] }
  try {
    await ensureBuilt()
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    say(error.message)
    build.failed++
  }
  const checks = await runChecks()
  const vitest = await runVitest(["packages/", "test/architecture/"])
  return report([
    ["checks", { ...checks, failed: checks.failed + build.failed }],
    ["vitest", vitest],
  ])
})
