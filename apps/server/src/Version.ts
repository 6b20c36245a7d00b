import { readFileSync } from "node:fs"

const packageJson = new URL("../package.json", import.meta.url)

/** Of this package. */
export const version = (JSON.parse(readFileSync(packageJson, "utf8")) as { version: string }).version
