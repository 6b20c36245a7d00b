#!/usr/bin/env node
// Serves the built page on loopback: files of one folder and nothing else. `npm run studio` runs it; any static host does as well.
import { createReadStream, existsSync, statSync } from "node:fs"
import { createServer } from "node:http"
import { extname, join, normalize, sep } from "node:path"
import { fileURLToPath } from "node:url"

const types = new Map([
  [".html", "text/html; charset=utf-8"],
  [".js", "text/javascript; charset=utf-8"],
  [".css", "text/css; charset=utf-8"],
  [".svg", "image/svg+xml"],
])

/** Where `npm run build` puts the page. */
export const site = fileURLToPath(new URL("./dist/site", import.meta.url))

/**
 * A server of the files below `folder`.
 *
 * @param {string} folder
 */
export const siteServer = (folder) =>
  createServer((request, response) => {
    const { pathname } = new URL(request.url || "/", "http://localhost")
    const path = pathname.endsWith("/") ? `${pathname}index.html` : pathname
    const file = normalize(join(folder, decodeURIComponent(path)))
    const isBelow = file.startsWith(folder + sep)
    if (!isBelow || !existsSync(file) || !statSync(file).isFile() || !["GET", "HEAD"].includes(request.method || "")) {
      response.writeHead(404, { "content-type": "text/plain; charset=utf-8" }).end("not found\n")
      return
    }
    response.writeHead(200, {
      "content-type": types.get(extname(file)) || "application/octet-stream",
      "content-length": statSync(file).size,
      "cache-control": "no-cache",
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
    })
    if (request.method === "HEAD") response.end()
    else createReadStream(file).pipe(response)
  })

const usage = `Usage: npm run studio [-- --port PORT]

Serves the studio, the simulator in the browser, on 127.0.0.1 (port 4280, or the next free one).
`

/** @param {readonly string[]} args */
const portOf = (args) => {
  const [flag, value] = args
  if (args.length === 0) return undefined
  const port = Number(flag === "--port" ? value : flag?.startsWith("--port=") ? flag.slice(7) : Number.NaN)
  if (!Number.isInteger(port) || port < 0 || port > 65_535 || args.length > 2) {
    process.stderr.write(usage)
    process.exit(args.includes("--help") || args.includes("-h") ? 0 : 2)
  }
  return port
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const asked = portOf(process.argv.slice(2))
  if (!existsSync(join(site, "index.html"))) {
    process.stderr.write("the studio is not built: npm run build\n")
    process.exit(1)
  }
  const server = siteServer(site)
  let port = asked ?? 4280
  server.on("error", (/** @type {NodeJS.ErrnoException} */ error) => {
    if (error.code === "EADDRINUSE" && asked === undefined && port < 4300) return server.listen(++port, "127.0.0.1")
    process.stderr.write(`the studio cannot be served: ${error.message}\n`)
    process.exit(1)
  })
  server.on("listening", () => {
    const address = server.address()
    process.stdout.write(`studio: http://127.0.0.1:${typeof address === "object" && address ? address.port : port}/\n`)
  })
  server.listen(port, "127.0.0.1")
}
