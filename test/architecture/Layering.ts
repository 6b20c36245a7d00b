import { isBuiltin } from "node:module"
import { posix } from "node:path"
import { borderPackages, layers, unlayered } from "./Layers.ts"
import type { Violation } from "./Violation.ts"
import { packageOf, readReferences, readWorkspaces, rootDevDependencies, type Workspace } from "./Workspaces.ts"

/**
 * Checks that packages depend on one another in one direction, declare what they import and import what they declare.
 *
 * Rules: `layer` a package without a place in the table; `direction` an import of a later or the same layer; `border` a
 * package that only apps may import; `escape` a relative import that leaves its package; `undeclared` an import that
 * package.json does not name; `unused` a dependency that nothing imports; `reference` tsconfig.json's references differ
 * from the workspace dependencies, or `tsc -b` passes a package by.
 */
export const checkLayering = (root: string): ReadonlyArray<Violation> => {
  const workspaces = readWorkspaces(root)
  const byName = new Map(workspaces.map((workspace) => [workspace.name, workspace]))
  const shared = new Set(rootDevDependencies(root))
  return workspaces.flatMap((workspace) => [
    ...checkImports(workspace, byName),
    ...checkTestImports(workspace, byName, shared),
    ...checkDependencies(workspace, byName),
    ...checkProjects(root, workspace),
  ])
}

const layerOf = (folder: string): number => layers.findIndex((layer) => layer.includes(folder))

const isRelative = (specifier: string): boolean => specifier.startsWith(".")

const leaves = (workspace: Workspace, file: string, specifier: string): boolean =>
  !posix.join(posix.dirname(file), specifier).startsWith(`${workspace.folder}/`)

const checkImports = (workspace: Workspace, byName: ReadonlyMap<string, Workspace>): ReadonlyArray<Violation> => {
  const { folder, name, dependencies } = workspace
  const violations: Array<Violation> = []
  for (const { file, imports } of workspace.sources) {
    for (const { specifier, line } of imports) {
      const report = (rule: string, message: string) => violations.push({ rule, file, line, message })
      if (isRelative(specifier)) {
        if (leaves(workspace, file, specifier)) report("escape", `${specifier} lies outside ${folder}`)
        continue
      }
      const imported = packageOf(specifier)
      if (isBuiltin(specifier) || imported === name || specifier.startsWith("#")) continue
      if (!dependencies.includes(imported)) report("undeclared", `${imported} is no dependency of ${name}`)
      const target = byName.get(imported)
      if (target === undefined || layerOf(folder) < 0) continue
      if (layerOf(target.folder) >= layerOf(folder)) report("direction", `${folder} must not import ${target.folder}`)
      if (borderPackages.includes(target.folder) && !folder.startsWith("apps/")) {
        report("border", `only apps import ${target.folder}`)
      }
    }
  }
  return violations
}

const checkTestImports = (
  workspace: Workspace,
  byName: ReadonlyMap<string, Workspace>,
  shared: ReadonlySet<string>,
): ReadonlyArray<Violation> =>
  workspace.tests.flatMap(({ file, imports }) =>
    imports.flatMap(({ specifier, line }): ReadonlyArray<Violation> => {
      const imported = packageOf(specifier)
      const isKnown =
        isRelative(specifier) ||
        isBuiltin(specifier) ||
        byName.has(imported) ||
        shared.has(imported) ||
        workspace.dependencies.includes(imported)
      if (isKnown) return []
      const message = `${imported} is neither a dependency of ${workspace.name} nor a devDependency of the root`
      return [{ rule: "undeclared", file, line, message }]
    }),
  )

const checkDependencies = (workspace: Workspace, byName: ReadonlyMap<string, Workspace>): ReadonlyArray<Violation> => {
  const { folder, dependencies, references } = workspace
  const violations: Array<Violation> = []
  const report = (rule: string, file: string, message: string) =>
    violations.push({ rule, file: `${folder}/${file}`, line: 0, message })
  if (layerOf(folder) < 0 && !unlayered.includes(folder)) {
    report("layer", "package.json", `${folder} has no layer in test/architecture/Layers.ts`)
  }
  const used = new Set(workspace.sources.flatMap(({ imports }) => imports.map(({ specifier }) => packageOf(specifier))))
  for (const dependency of dependencies) {
    if (!used.has(dependency)) report("unused", "package.json", `nothing in ${folder} imports ${dependency}`)
  }
  if (references === undefined) return violations
  const wanted = dependencies.flatMap((dependency) => {
    const target = byName.get(dependency)
    return target?.references === undefined ? [] : [target.folder]
  })
  for (const missing of wanted.filter((each) => !references.includes(each))) {
    report("reference", "tsconfig.json", `${missing} is a dependency but no reference`)
  }
  for (const extra of references.filter((each) => !wanted.includes(each))) {
    report("reference", "tsconfig.json", `${extra} is a reference but no dependency`)
  }
  return violations
}

/** `tsc -b` starts from the root's project and from the tests': both must lead to every package. */
const checkProjects = (root: string, workspace: Workspace): ReadonlyArray<Violation> =>
  workspace.references === undefined
    ? []
    : [".", "test"].flatMap((project): ReadonlyArray<Violation> => {
        if (readReferences(root, project)?.includes(workspace.folder) !== false) return []
        const file = posix.join(project, "tsconfig.json")
        return [{ rule: "reference", file, line: 0, message: `${workspace.folder} is no reference` }]
      })
