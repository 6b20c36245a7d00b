import { type ChildProcess, spawn } from "node:child_process"
import { fileURLToPath } from "node:url"

/** The server's program: the source, or a bundle of it where UNIPREFILL_SERVER says so. */
export const serverProgram =
  process.env["UNIPREFILL_SERVER"] ?? fileURLToPath(new URL("../../apps/server/src/main.ts", import.meta.url))

/** `uniprefill serve` as a process of its own. */
export class ServeProcess {
  readonly url: string
  readonly #child: ChildProcess
  readonly #ended: Promise<number | null>
  #stderr: () => string

  private constructor(url: string, child: ChildProcess, ended: Promise<number | null>, stderr: () => string) {
    this.url = url
    this.#child = child
    this.#ended = ended
    this.#stderr = stderr
  }

  /** Resolves once the server says that it is ready; fails with what it printed when it ends before. */
  static start(...options: ReadonlyArray<string>): Promise<ServeProcess> {
    return ServeProcess.run(process.execPath, [
      "--conditions=source",
      serverProgram,
      "serve",
      "--port",
      "0",
      ...options,
    ])
  }

  /** The same of any command that serves. */
  static run(
    command: string,
    args: ReadonlyArray<string>,
    env: Readonly<Record<string, string | undefined>> = process.env,
  ): Promise<ServeProcess> {
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], env })
    let stdout = ""
    let stderr = ""
    const ended = new Promise<number | null>((resolve) => child.on("close", resolve))
    child.stderr.on("data", (chunk) => (stderr += chunk))
    return new Promise((resolve, reject) => {
      child.stdout.on("data", (chunk) => {
        stdout += chunk
        const url = /at (http:\S+)\n[^]*curl/.exec(stdout)?.[1]
        if (url !== undefined) resolve(new ServeProcess(url, child, ended, () => stderr))
      })
      void ended.then((code) => reject(new Error(`serve ended with ${code}:\n${stdout}${stderr}`)))
    })
  }

  get pid(): number {
    return this.#child.pid!
  }

  get stderr(): string {
    return this.#stderr()
  }

  /** Where it publishes KV events. Requires `--log-format json`. */
  get kvEventsEndpoint(): string {
    const line = this.stderr.split("\n").find((text) => text.includes("KV events are published"))
    if (line === undefined) throw new Error(`no KV events are published:\n${this.stderr}`)
    return (JSON.parse(line) as { annotations: { endpoint: string } }).annotations.endpoint
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name)
  }

  /** The exit code, once it has ended. */
  get ended(): Promise<number | null> {
    return this.#ended
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL")
    await this.#ended
  }
}
