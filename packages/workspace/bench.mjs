import * as fs from "node:fs"
import { ensureBuilt } from "./src/Build.mjs"
import { main, run } from "./src/Child.mjs"
import { ensureInstalled } from "./src/Install.mjs"
import { inRoot } from "./src/Paths.mjs"
import { runtimeNode } from "./src/Runtime.mjs"
import { Failure, say } from "./src/Terminal.mjs"

/** `npm run bench [-- NAME [options]]`: runs every program in `test/bench`, or the one named with its options. */
main(async () => {
  const names = fs
    .readdirSync(inRoot("test/bench"))
    .filter((file) => file.endsWith(".ts"))
    .map((file) => file.slice(0, -3))
  const [wanted, ...options] = process.argv.slice(2)
  if (wanted !== undefined && !names.includes(wanted)) {
    throw new Failure(`no benchmark is named ${wanted}`, `There are: ${names.join(", ")}`)
  }
  await ensureInstalled()
  await ensureBuilt()
  for (const name of wanted === undefined ? names : [wanted]) {
    say(`\n${name}`)
    const args = ["--conditions=source", "--expose-gc", inRoot("test/bench", `${name}.ts`), ...options]
    const { code } = await run(runtimeNode(), args)
    if (code !== 0) return code
  }
  return 0
})
