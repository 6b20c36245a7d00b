import { ensureBuilt } from "./src/Build.mjs"
import { main, run } from "./src/Child.mjs"
import { ensureInstalled } from "./src/Install.mjs"
import { inRoot } from "./src/Paths.mjs"
import { runtimeNode } from "./src/Runtime.mjs"

/** `npm run demo [-- options]`: finds a needle in a long text, dense and with UniPrefill. */
main(async () => {
  await ensureInstalled()
  await ensureBuilt()
  const { code } = await run(runtimeNode(), [
    inRoot("apps/server/bin/uniprefill.mjs"),
    "demo",
    ...process.argv.slice(2),
  ])
  return code
})
