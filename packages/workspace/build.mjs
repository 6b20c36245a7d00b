import { ensureBuilt } from "./src/Build.mjs"
import { main } from "./src/Child.mjs"
import { ensureInstalled } from "./src/Install.mjs"

/** `npm run build`: installs what is missing and builds what changed. */
main(async () => {
  await ensureInstalled()
  await ensureBuilt()
  return 0
})
