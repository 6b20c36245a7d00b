import { ensureBuilt } from "./src/Build.mjs"
import { main, run } from "./src/Child.mjs"
import { ensureInstalled } from "./src/Install.mjs"
import { inRoot } from "./src/Paths.mjs"
import { runtimeNode } from "./src/Runtime.mjs"

/** `npm run sim [-- command options]`: serving simulated on a slice of a real trace, dense and with token dropping. */
main(async () => {
  await ensureInstalled()
  await ensureBuilt()
  const { code } = await run(runtimeNode(), [inRoot("apps/sim/bin/uniprefill-sim.mjs"), ...process.argv.slice(2)])
  return code
})
