import { ensureBuilt } from "./src/Build.mjs"
import { main, run } from "./src/Child.mjs"
import { ensureInstalled } from "./src/Install.mjs"
import { inRoot } from "./src/Paths.mjs"
import { runtimeNode } from "./src/Runtime.mjs"

/** `npm start [-- options]`: from whatever state the checkout is in to a running server. */
main(async () => {
  await ensureInstalled()
  await ensureBuilt()
  const { code } = await run(runtimeNode(), [
    inRoot("apps/server/bin/uniprefill.mjs"),
    "serve",
    ...process.argv.slice(2),
  ])
  return code
})
