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
 * The file below `folder` that an address asks for; undefined where there is none.
 *
 * @param {string} folder
 * @param {string} address
 */
const fileAt = (folder, address) => {
  let path
  try {
    path = decodeURIComponent(new URL(address, "http://localhost").pathname)
  } catch {
    return undefined
  }
  const file = normalize(join(folder, path.endsWith("/") ? `${path}index.html` : path))
  const isBelow = file.startsWith(folder + sep) && !file.includes("\0")
  return isBelow && existsSync(file) && statSync(file).isFile() ? file : undefined
}

/**
 * A server of the files below `folder`.
 *
 * @param {string} folder
 */
export const siteServer = (folder) =>
  createServer((request, response) => {
    const file = fileAt(folder, request.url || "/")
    if (file === undefined || !["GET", "HEAD"].includes(request.method || "")) {
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
    else
      createReadStream(file)
        .on("error", (error) => response.destroy(error))
        .pipe(response)
  })

const firstPort = 4280
const lastPort = 4300

const usage = `Usage: npm run studio [-- --port PORT]

Serves the studio, the simulator in the browser, on 127.0.0.1: at PORT (0: any free one), else at ${firstPort} or the next free
port. Prints the address; Ctrl-C stops it.
`

/**
 * @param {number} code
 * @param {string} message
 */
const end = (code, message) => {
  process.stderr.write(`${message}\n`)
  process.exit(code)
}

/**
 * The port that is asked for; undefined for none.
 *
 * @param {readonly string[]} args
 */
const portOf = ([flag, ...values]) => {
  if (flag === undefined) return undefined
  const [name, value, ...more] = flag.startsWith("--port=") ? ["--port", flag.slice(7), ...values] : [flag, ...values]
  if (name !== "--port") return end(2, `the studio has no option ${name}\n\n${usage}`)
  if (more.length > 0) return end(2, `the studio has no option ${more[0]}\n\n${usage}`)
  const port = /^\d+$/.test(value ?? "") ? Number(value) : Number.NaN
  if (port <= 65_535) return port
  return end(2, `--port takes a number from 0 to 65535, not ${value === undefined ? "nothing" : JSON.stringify(value)}`)
}

const serve = () => {
  const asked = portOf(process.argv.slice(2))
  if (!existsSync(join(site, "index.html"))) return end(1, "the studio is not built: npm run build")
  const server = siteServer(site)
  let port = asked ?? firstPort
  server.on("error", (/** @type {NodeJS.ErrnoException} */ error) => {
    const isTaken = error.code === "EADDRINUSE"
    if (isTaken && asked === undefined && port < lastPort) return server.listen(++port, "127.0.0.1")
    const ports = asked === undefined ? `ports ${firstPort} to ${lastPort} are` : `port ${port} is`
    end(1, `the studio cannot be served: ${isTaken ? `${ports} in use; name another one with --port` : error.message}`)
  })
  server.on("listening", () => {
    const address = server.address()
    process.stdout.write(`studio: http://127.0.0.1:${typeof address === "object" && address ? address.port : port}/\n`)
  })
  for (const signal of ["SIGINT", "SIGTERM"])
    process.on(signal, () => {
      server.close()
      server.closeAllConnections()
    })
  server.listen(port, "127.0.0.1")
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.some((arg) => arg === "--help" || arg === "-h")) process.stdout.write(usage)
  else serve()
}
