import { type ChildProcess, spawn } from "node:child_process"
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs"
import { createServer, request } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, afterEach, describe, expect, it } from "vitest"
import { openStudio } from "./OpenStudio.ts"

const { studio, openPage } = await openStudio()

/** The server beside a page, as `npm run build` leaves them. */
const folder = mkdtempSync(join(tmpdir(), "uniprefill-studio-served-"))
const script = join(folder, "serve.mjs")
copyFileSync(fileURLToPath(new URL("../serve.mjs", import.meta.url)), script)
if (studio !== null) {
  mkdirSync(join(folder, "dist"))
  symlinkSync(studio.site, join(folder, "dist", "site"))
}

afterAll(() => rmSync(folder, { recursive: true, force: true }))

interface Started {
  readonly process: ChildProcess
  /** What it prints, once that holds an address. */
  readonly address: Promise<string>
  readonly ended: Promise<{ readonly code: number | null; readonly out: string; readonly err: string }>
}

const running: Array<ChildProcess> = []

const start = (command: string, args: ReadonlyArray<string>, cwd: string): Started => {
  const child = spawn(command, [...args], { cwd, stdio: ["ignore", "pipe", "pipe"] })
  running.push(child)
  let out = ""
  let err = ""
  const ended = new Promise<{ code: number | null; out: string; err: string }>((resolve) =>
    child.on("close", (code) => resolve({ code, out, err })),
  )
  child.stderr.on("data", (data: Buffer) => (err += data.toString()))
  const address = new Promise<string>((resolve, reject) => {
    child.stdout.on("data", (data: Buffer) => {
      out += data.toString()
      const found = /studio: (http:\S+)/.exec(out)
      if (found !== null) resolve(found[1]!)
    })
    void ended.then(() => reject(new Error(`ended without an address: ${out}${err}`)))
  })
  address.catch(() => {})
  return { process: child, address, ended }
}

const serve = (...args: ReadonlyArray<string>): Started => start(process.execPath, [script, ...args], folder)

afterEach(() => {
  for (const child of running.splice(0)) child.kill("SIGKILL")
})

/** Status of a path that is sent as it is. */
const statusOf = (address: string, path: string, method = "GET"): Promise<number> =>
  new Promise((resolve, reject) => {
    const { hostname, port } = new URL(address)
    request({ hostname, port, path, method }, (response) => {
      response.resume()
      resolve(response.statusCode!)
    })
      .on("error", reject)
      .end()
  })

describe("npm run studio", () => {
  it("builds the page, serves it at the port asked for, and ends with Ctrl-C", async () => {
    const root = fileURLToPath(new URL("../../..", import.meta.url))
    const { process: npm, address, ended } = start("npm", ["run", "studio", "--", "--port", "0"], root)
    expect(await address).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/$/)
    const page = await openPage()
    await page.page.goto(await address)
    await page.ready()
    npm.kill("SIGINT")
    const { code, err } = await ended
    expect([code, err.includes("npm error")]).toEqual([0, false])
    await expect(statusOf(await address, "/")).rejects.toThrow("ECONNREFUSED")
  })
})

describe("the server of the page", () => {
  it.each(["SIGINT", "SIGTERM"] as const)("stops on %s though a page is open, with exit code 0", async (signal) => {
    const { process: server, address, ended } = serve("--port=0")
    const page = await openPage()
    await page.page.goto(await address)
    await page.ready()
    server.kill(signal)
    expect(await ended).toMatchObject({ code: 0, err: "" })
    // The page needs no server any more.
    await page.run()
  })

  it("takes the next free port where none is asked for", async () => {
    const first = serve()
    const second = serve()
    const [one, other] = await Promise.all([first.address, second.address])
    expect(one).not.toBe(other)
    expect(await statusOf(one, "/")).toBe(200)
    expect(await statusOf(other, "/")).toBe(200)
  })

  it("says that a port is in use", async () => {
    const taken = createServer()
    await new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve))
    const { port } = taken.address() as AddressInfo
    const { code, out, err } = await serve("--port", String(port)).ended
    taken.close()
    expect([code, out]).toEqual([1, ""])
    expect(err).toBe(`the studio cannot be served: port ${port} is in use; name another one with --port\n`)
  })

  it.each([
    [["--port", "65536"], '--port takes a number from 0 to 65535, not "65536"'],
    [["--port=abc"], '--port takes a number from 0 to 65535, not "abc"'],
    [["--port", "-1"], '--port takes a number from 0 to 65535, not "-1"'],
    [["--port="], '--port takes a number from 0 to 65535, not ""'],
    [["--port"], "--port takes a number from 0 to 65535, not nothing"],
    [["--host", "0.0.0.0"], "the studio has no option --host"],
    [["--port", "0", "--open"], "the studio has no option --open"],
  ])("refuses %j with exit code 2", async (args, message) => {
    const { code, out, err } = await serve(...args).ended
    expect([code, out]).toEqual([2, ""])
    expect(err).toContain(message)
  })

  it.each([[["--help"]], [["-h"]], [["--port", "x", "--help"]]])("explains itself with %j", async (args) => {
    const { code, out, err } = await serve(...args).ended
    expect([code, err]).toEqual([0, ""])
    expect(out).toContain("Usage: npm run studio [-- --port PORT]")
  })

  it("says that the page is not built", async () => {
    const bare = mkdtempSync(join(tmpdir(), "uniprefill-studio-bare-"))
    copyFileSync(script, join(bare, "serve.mjs"))
    const { code, err } = await start(process.execPath, [join(bare, "serve.mjs")], bare).ended
    rmSync(bare, { recursive: true })
    expect([code, err]).toEqual([1, "the studio is not built: npm run build\n"])
  })

  it("gives files of the page and nothing else, whatever it is asked for", async () => {
    const { address } = serve("--port", "0")
    const at = await address
    for (const path of ["/", "/index.html", "/icon.svg", "/?x=1"])
      expect(await statusOf(at, path), `status of ${path}`).toBe(200)
    const others = [
      "/../serve.mjs",
      "/%2e%2e/%2e%2e/serve.mjs",
      "/..%2f..%2fserve.mjs",
      "/assets",
      "/none",
      "//",
      "/%",
      "/%E0%A4%A",
      "/a%00b",
    ]
    for (const path of others) expect(await statusOf(at, path), `status of ${path}`).toBe(404)
    expect(await statusOf(at, "/", "POST")).toBe(404)
    expect(await statusOf(at, "/", "HEAD")).toBe(200)
  })
})
