import { ensureBuilt } from "./src/Build.mjs"
import { main } from "./src/Child.mjs"
import { ensureInstalled } from "./src/Install.mjs"
import { pack } from "./src/Pack.mjs"
import { inRoot } from "./src/Paths.mjs"

/** `npm run pack [-- FOLDER]`: tarballs of every published package in FOLDER, and their sizes as JSON or as a table. */
main(async () => {
  const args = process.argv.slice(2)
  const folder = args.find((each) => !each.startsWith("--")) ?? inRoot("dist/packages")
  await ensureInstalled()
  await ensureBuilt()
  const packed = await pack(folder)
  if (args.includes("--json")) process.stdout.write(`${JSON.stringify(packed)}\n`)
  else {
    const kilobytes = (/** @type {number} */ bytes) => `${Math.ceil(bytes / 1000)}`.padStart(7)
    for (const { filename, size, unpackedSize } of packed) {
      process.stdout.write(`${kilobytes(size)} kB, ${kilobytes(unpackedSize)} kB unpacked  ${filename}\n`)
    }
  }
  return 0
})
