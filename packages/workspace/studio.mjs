import { ensureOneBuilt } from "./src/Build.mjs"
import { main, run } from "./src/Child.mjs"
import { ensureInstalled } from "./src/Install.mjs"
import { inRoot } from "./src/Paths.mjs"
import { runtimeNode } from "./src/Runtime.mjs"

/** `npm run studio [-- options]`: the simulator in the browser, served on loopback. Nothing native is built for it. */
main(async () => {
  await ensureInstalled()
  await ensureOneBuilt("@uniprefill/studio")
  const { code } = await run(runtimeNode(), [inRoot("apps/studio/serve.mjs"), ...process.argv.slice(2)])
  return code
})
