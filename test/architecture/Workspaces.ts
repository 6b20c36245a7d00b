import { readdirSync, readFileSync, existsSync, type Dirent } from "node:fs"
import { join, relative, sep } from "node:path"
import { parseSource, type Source } from "./Source.ts"

/** A workspace of the repository: what its package.json and tsconfig.json say, and its parsed modules. */
export interface Workspace {
  /** Relative to the root: `packages/units`. */
  readonly folder: string
  readonly name: string
  readonly dependencies: ReadonlyArray<string>
  /** Folders of the projects that its tsconfig.json refers to; undefined without that file. */
  readonly references: ReadonlyArray<string> | undefined
  /** What is published or run: `src`, `bin` and modules beside package.json. */
  readonly sources: ReadonlyArray<Source>
  /** Tests and benchmarks, and what the build is told. */
  readonly tests: ReadonlyArray<Source>
}

interface Manifest {
  readonly name: string
  readonly dependencies?: Record<string, string>
  readonly optionalDependencies?: Record<string, string>
  readonly devDependencies?: Record<string, string>
  readonly peerDependencies?: Record<string, string>
}

const skipped = new Set(["node_modules", "dist", "build", ".turbo"])

const readJson = (file: string): unknown => JSON.parse(readFileSync(file, "utf8"))

const posix = (file: string): string => file.split(sep).join("/")

/** Modules in a folder and its subfolders, as paths relative to `root`. */
export const modulesIn = (root: string, folder: string): ReadonlyArray<string> => {
  const at = join(root, folder)
  if (!existsSync(at)) return []
  const visit = (entry: Dirent): ReadonlyArray<string> => {
    const file = posix(relative(root, join(entry.parentPath, entry.name)))
    if (entry.isDirectory()) return skipped.has(entry.name) ? [] : modulesIn(root, file)
    return /\.(ts|tsx|mts|js|mjs)$/.test(entry.name) ? [file] : []
  }
  return readdirSync(at, { withFileTypes: true }).flatMap(visit)
}

const parse = (root: string, files: ReadonlyArray<string>): ReadonlyArray<Source> =>
  files.map((file) => parseSource(file, readFileSync(join(root, file), "utf8")))

/** Folders of the projects that `folder`'s tsconfig.json refers to; undefined without that file. */
export const readReferences = (root: string, folder: string): ReadonlyArray<string> | undefined => {
  const file = join(root, folder, "tsconfig.json")
  if (!existsSync(file)) return undefined
  const { references = [] } = readJson(file) as { references?: ReadonlyArray<{ path: string }> }
  return references.map(({ path }) => posix(relative(root, join(root, folder, path))))
}

const readWorkspace = (root: string, folder: string): Workspace => {
  const manifest = readJson(join(root, folder, "package.json")) as Manifest
  // `src/bench` is a part of what is published.
  const isTest = (file: string) => /^(test\/|bench\/|vite\.config\.ts$)/.test(file.slice(folder.length + 1))
  const files = modulesIn(root, folder)
  return {
    folder,
    name: manifest.name,
    dependencies: Object.keys({
      ...manifest.dependencies,
      ...manifest.optionalDependencies,
      ...manifest.peerDependencies,
    }),
    references: readReferences(root, folder),
    sources: parse(
      root,
      files.filter((file) => !isTest(file)),
    ),
    tests: parse(root, files.filter(isTest)),
  }
}

/** Every package and app below a root. */
export const readWorkspaces = (root: string): ReadonlyArray<Workspace> =>
  ["packages", "apps"].flatMap((group) =>
    readdirSync(join(root, group))
      .map((name) => `${group}/${name}`)
      .filter((folder) => existsSync(join(root, folder, "package.json")))
      .map((folder) => readWorkspace(root, folder)),
  )

/** Packages that tests everywhere may import: the root's. */
export const rootDevDependencies = (root: string): ReadonlyArray<string> =>
  Object.keys((readJson(join(root, "package.json")) as Manifest).devDependencies ?? {})

/** `@scope/name/Module` → `@scope/name`. */
export const packageOf = (specifier: string): string =>
  specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/")
