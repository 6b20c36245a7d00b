/**
 * Writes native/vectors/*.json.
 *
 * Run: node --conditions=source test/golden/makeVectors.ts
 */
import { writeFileSync } from "node:fs"
import { vectorFiles } from "./vectors.ts"

for (const [name, text] of Object.entries(vectorFiles())) {
  writeFileSync(new URL(`../../native/vectors/${name}`, import.meta.url), text)
}
