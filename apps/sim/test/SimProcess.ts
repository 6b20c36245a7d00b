import { type ChildProcess, spawn } from "node:child_process"
import { fileURLToPath } from "node:url"
import { NodeServices } from "@effect/platform-node"
import * as Cli from "@uniprefill/sim/Cli"
import { endingOf } from "@uniprefill/sim/Ending"
import { Effect } from "effect"
import { vi } from "vitest"

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

const exitCodeSet = (): number => Number(process.exitCode ?? 0)

/** The same in this process: starting one takes longer than most runs. For what needs no worker thread and no signal. */
export const simHere = async (folder: string, args: ReadonlyArray<string>): Promise<Outcome> => {
  const written = { out: "", err: "" }
  const take = (stream: NodeJS.WriteStream, name: "out" | "err") =>
    vi.spyOn(stream, "write").mockImplementation((chunk) => {
      written[name] += String(chunk)
      return true
    })
  const takeLine = (method: "log" | "error", name: "out" | "err") =>
    vi.spyOn(console, method).mockImplementation((line: unknown) => void (written[name] += `${String(line)}\n`))
  const spies = [
    take(process.stdout, "out"),
    take(process.stderr, "err"),
    takeLine("log", "out"),
    takeLine("error", "err"),
  ]
  const before = { folder: process.cwd(), exitCode: process.exitCode }
  process.chdir(folder)
  process.exitCode = 0
  try {
    const exit = await Effect.runPromiseExit(Effect.provide(Cli.runWith(args), NodeServices.layer))
    const { code, message } = endingOf(exit)
    return { code: code === 0 ? exitCodeSet() : code, out: written.out, err: written.err + message }
  } finally {
    process.chdir(before.folder)
    process.exitCode = before.exitCode
    for (const spy of spies) spy.mockRestore()
  }
}
