import { parseSync } from "vite"

/** A parsed module: its imports of every kind, and a walk over its syntax tree. */
export interface Source {
  /** Relative to the root, with forward slashes. */
  readonly file: string
  readonly imports: ReadonlyArray<Import>
  readonly lineOf: (node: Node) => number
  /** Calls `visit` with every node, parents first. */
  readonly walk: (visit: (node: Node, parent: Node | undefined, key: string) => void) => void
}

export interface Import {
  readonly specifier: string
  readonly line: number
}

/** A node of the syntax tree (ESTree with TypeScript's nodes); its other fields depend on `type`. */
export interface Node {
  readonly type: string
  readonly start: number
  readonly [field: string]: unknown
}

const isNode = (value: unknown): value is Node =>
  typeof value === "object" && value !== null && typeof (value as { type?: unknown }).type === "string"

/** Fails with SyntaxError when the text does not parse: a file that cannot be read is not a file without violations. */
export const parseSource = (file: string, text: string): Source => {
  const { program, errors } = parseSync(file, text)
  if (errors.length > 0) throw new SyntaxError(`${file}: ${errors[0]!.message}`)
  const lineOf = (node: Node) => text.slice(0, node.start).split("\n").length

  const descend = (node: Node, parent: Node | undefined, key: string, visit: Parameters<Source["walk"]>[0]): void => {
    visit(node, parent, key)
    for (const [field, value] of Object.entries(node)) {
      if (Array.isArray(value)) {
        for (const child of value as ReadonlyArray<unknown>) if (isNode(child)) descend(child, node, field, visit)
      } else if (isNode(value)) descend(value, node, field, visit)
    }
  }
  const walk: Source["walk"] = (visit) => descend(program as unknown as Node, undefined, "", visit)

  const imports: Array<Import> = []
  walk((node) => {
    const specifier = importedSpecifier(node)
    if (specifier !== undefined) imports.push({ specifier, line: lineOf(node) })
  })
  return { file, imports, lineOf, walk }
}

/** `import`, `export … from`, `import()`, `import("…").Type`, `require()` and `import.meta.resolve()`. */
const importedSpecifier = (node: Node): string | undefined => {
  switch (node.type) {
    case "ImportDeclaration":
    case "ExportNamedDeclaration":
    case "ExportAllDeclaration":
    case "ImportExpression":
    case "TSImportType":
      return literal(node["source"])
    case "TSExternalModuleReference":
      return literal(node["expression"])
    case "CallExpression":
      return isResolution(node["callee"]) ? literal((node["arguments"] as ReadonlyArray<unknown>)[0]) : undefined
    default:
      return undefined
  }
}

const isResolution = (callee: unknown): boolean => {
  if (!isNode(callee)) return false
  if (callee.type === "Identifier") return callee["name"] === "require"
  if (callee.type !== "MemberExpression" || !isNode(callee["property"])) return false
  return callee["property"]["name"] === "resolve" && isNode(callee["object"]) && namesResolver(callee["object"])
}

const namesResolver = (object: Node): boolean =>
  object.type === "MetaProperty" || (object.type === "Identifier" && object["name"] === "require")

/** The text of a string literal, or of a template without parts. */
const literal = (value: unknown): string | undefined => {
  if (!isNode(value)) return undefined
  if (value.type === "Literal" && typeof value["value"] === "string") return value["value"]
  if (value.type !== "TemplateLiteral" || (value["expressions"] as ReadonlyArray<unknown>).length > 0) return undefined
  return (value["quasis"] as ReadonlyArray<{ value: { cooked: string } }>)[0]?.value.cooked
}
