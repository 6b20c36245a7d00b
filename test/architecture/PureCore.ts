import { posix } from "node:path"
import { coreFolders, isCore } from "./Layers.ts"
import type { Node, Source } from "./Source.ts"
import type { Violation } from "./Violation.ts"
import { readWorkspaces } from "./Workspaces.ts"

/**
 * Checks that the core is deterministic in its arguments and equal on every machine.
 *
 * Rules: `core-import` anything but modules of the core; `core-global` clocks, randomness, timers, the process, I/O and
 * what depends on the garbage collector or the locale; `core-async` promises and async functions; `core-arithmetic`
 * functions whose result IEEE 754 does not fix to the last bit.
 */
export const checkPureCore = (root: string): ReadonlyArray<Violation> => {
  const workspaces = readWorkspaces(root)
  const folderOf = new Map(workspaces.map(({ name, folder }) => [name, folder]))
  return workspaces
    .flatMap(({ sources }) => sources)
    .filter(({ file }) => isCore(file))
    .flatMap((source) => [...checkImports(source, folderOf), ...checkUses(source)])
}

const checkImports = (source: Source, folderOf: ReadonlyMap<string, string>): ReadonlyArray<Violation> =>
  source.imports.flatMap(({ specifier, line }): ReadonlyArray<Violation> => {
    const target = moduleFile(source.file, specifier, folderOf)
    if (target !== undefined && isCore(target)) return []
    return [{ rule: "core-import", file: source.file, line, message: `${specifier} is no module of the core` }]
  })

/** The file that a specifier names, or undefined for a package that is not ours. */
const moduleFile = (from: string, specifier: string, folderOf: ReadonlyMap<string, string>): string | undefined => {
  if (specifier.startsWith(".")) return posix.join(posix.dirname(from), specifier)
  const [scope, name, ...module] = specifier.split("/")
  const folder = folderOf.get(`${scope}/${name}`)
  return folder === undefined ? undefined : `${folder}/src/${module.join("/")}.ts`
}

const words = (text: string): ReadonlySet<string> => new Set(text.trim().split(/\s+/))

const forbiddenGlobals = words(`
  Date performance Temporal Intl crypto console process globalThis fetch
  setTimeout setInterval setImmediate queueMicrotask requestAnimationFrame
  eval Function Worker SharedArrayBuffer Atomics WeakRef FinalizationRegistry
`)

/** Exact, or rounded correctly by IEEE 754. */
const exactMath = words("abs ceil floor round trunc sign min max sqrt fround imul clz32")

const localeMethods = /^(toLocale\w*|localeCompare)$/

const checkUses = (source: Source): ReadonlyArray<Violation> => {
  const violations: Array<Violation> = []
  source.walk((node, parent, key) => {
    const found = forbiddenUse(node, parent, key)
    if (found !== undefined) violations.push({ ...found, file: source.file, line: source.lineOf(node) })
  })
  return violations
}

const forbiddenUse = (
  node: Node,
  parent: Node | undefined,
  key: string,
): Pick<Violation, "rule" | "message"> | undefined => {
  if (node["async"] === true || node.type === "AwaitExpression" || node["await"] === true) {
    return { rule: "core-async", message: "the core makes no promise" }
  }
  if (node.type === "MetaProperty" && (node["meta"] as Node)["name"] === "import") {
    return { rule: "core-global", message: "import.meta is of the environment" }
  }
  if (node["operator"] === "**" || node["operator"] === "**=") {
    return { rule: "core-arithmetic", message: "** differs between machines" }
  }
  if (node.type !== "Identifier") return undefined
  const name = node["name"] as string
  if (parent?.type === "MemberExpression" && key === "property" && localeMethods.test(name)) {
    return { rule: "core-global", message: `${name} depends on the locale` }
  }
  if (isName(parent, key)) return undefined
  if (name === "Promise" || name === "PromiseLike") return { rule: "core-async", message: "the core makes no promise" }
  if (forbiddenGlobals.has(name)) return { rule: "core-global", message: `${name} is of the environment` }
  return name === "Math" ? mathUse(parent, key) : undefined
}

const mathUse = (parent: Node | undefined, key: string): Pick<Violation, "rule" | "message"> | undefined => {
  const property = parent?.type === "MemberExpression" && key === "object" ? (parent["property"] as Node) : undefined
  const member = parent?.["computed"] === true ? undefined : (property?.["name"] as string | undefined)
  if (member === "random") return { rule: "core-global", message: "Math.random is not deterministic" }
  if (member !== undefined && (exactMath.has(member) || /^[A-Z0-9_]+$/.test(member))) return undefined
  return { rule: "core-arithmetic", message: `Math.${member ?? "*"} differs between machines` }
}

/** Whether an identifier only names a member, key or label, and so reads no variable. */
const isName = (parent: Node | undefined, key: string): boolean => {
  switch (parent?.type) {
    case "MemberExpression":
      return key === "property" && parent["computed"] !== true
    case "Property":
      return key === "key" && parent["computed"] !== true && parent["shorthand"] !== true
    case "MethodDefinition":
    case "PropertyDefinition":
    case "AccessorProperty":
    case "TSPropertySignature":
    case "TSMethodSignature":
    case "TSAbstractMethodDefinition":
    case "TSAbstractPropertyDefinition":
      return key === "key" && parent["computed"] !== true
    case "TSQualifiedName":
      return key === "right"
    case "ImportSpecifier":
      return key === "imported"
    case "ExportSpecifier":
      return key === "exported"
    default:
      return false
  }
}

/** The core's folders that exist below a root: a check over nothing is no check. */
export const presentCoreFolders = (root: string): ReadonlyArray<string> => {
  const files = readWorkspaces(root).flatMap(({ sources }) => sources.map(({ file }) => file))
  return coreFolders.filter((folder) => files.some((file) => file.startsWith(`${folder}/`)))
}
