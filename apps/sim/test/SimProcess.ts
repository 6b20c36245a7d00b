import { type ChildProcess, spawn } from "node:child_process"
import { fileURLToPath } from "node:url"

export interface Outcome {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

/** `uniprefill-sim`'s entry point, from its sources. */
const main = fileURLToPath(new URL("../src/main.ts", import.meta.url))

/** Runs `uniprefill-sim` in a folder to its end; `during` gets the process once it runs. */
export const runSim = (
  folder: string,
  args: ReadonlyArray<string>,
  during: (child: ChildProcess) => void = () => {},
): Promise<Outcome> =>
  new Promise((resolve) => {
    const child = spawn(process.execPath, ["--conditions=source", main, ...args], { cwd: folder })
    let out = ""
    let err = ""
    child.stdout.on("data", (data: Buffer) => (out += data.toString()))
    child.stderr.on("data", (data: Buffer) => (err += data.toString()))
    child.on("close", (code) => resolve({ code, out, err }))
    during(child)
  })
