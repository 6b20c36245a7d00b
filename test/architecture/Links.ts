import { existsSync } from "node:fs"
import { posix } from "node:path"
import type { Violation } from "./Violation.ts"

/** The anchor that a heading gets: lower case, words joined by hyphens, without marks. */
const anchorOf = (heading: string): string =>
  heading
    .replaceAll(/`|\[([^\]]*)\]\([^)]*\)/g, "$1")
    .trim()
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}\s_-]/gu, "")
    .replaceAll(/\s/g, "-")

const withoutCode = (text: string): string =>
  text.replaceAll(/^```[\s\S]*?^```$|^ {4}.*$/gm, (block) => block.replaceAll(/[^\n]/g, ""))

/**
 * Links of a page to files that are not there, and to headings that the page they name has not.
 *
 * @param read The text of a file below the root.
 */
export const checkLinks = (root: string, file: string, read: (file: string) => string): ReadonlyArray<Violation> => {
  const text = withoutCode(read(file))
  return [...text.matchAll(/\]\(([^()\s]+)\)/g)].flatMap((match): ReadonlyArray<Violation> => {
    const target = match[1]!
    if (/^[a-z]+:/.test(target)) return []
    const [path, anchor] = target.split("#") as [string, string?]
    const page = path === "" ? file : posix.normalize(posix.join(posix.dirname(file), path))
    const line = text.slice(0, match.index).split("\n").length
    const report = (message: string) => [{ rule: "link", file, line, message: `${target}: ${message}` }]
    const isThere = page === file || (!page.startsWith("../") && existsSync(posix.join(root, page)))
    if (!isThere) return report("no such file")
    if (anchor === undefined || !page.endsWith(".md")) return []
    const headings = [...withoutCode(read(page)).matchAll(/^#+ (.*)$/gm)].map((heading) => anchorOf(heading[1]!))
    return headings.includes(anchor) ? [] : report("no such heading")
  })
}
