import { readFileSync } from "node:fs"
import { join } from "node:path"
import { expect, it } from "vitest"
import { committedFiles } from "./CommittedText.ts"
import { root } from "./CopiedTree.ts"
import { checkLinks } from "./Links.ts"
import { render } from "./Violation.ts"

const read = (file: string) => readFileSync(join(root, file), "utf8")
const pages = committedFiles(root).filter((file) => file.endsWith(".md"))

it("every link of a page leads to a file, and to a heading in it", () => {
  expect(pages).toContain("docs/packages.md")
  expect(render(pages.flatMap((file) => checkLinks(root, file, read)))).toEqual([])
})

it("links to nothing are found, and those in examples are not links", () => {
  const page = [
    "[a](missing.md) and [b](architecture.md#no-such-heading) and [c](../../outside.md)",
    "[fine](architecture.md#the-seam), [there](https://example.org), [here](#a-heading)",
    "# A heading",
    "```",
    "[code](missing.md)",
    "```",
  ].join("\n")
  const readPlanted = (file: string) => (file === "docs/planted.md" ? page : read(file))
  expect(render(checkLinks(root, "docs/planted.md", readPlanted))).toEqual([
    "docs/planted.md:1 link: missing.md: no such file",
    "docs/planted.md:1 link: architecture.md#no-such-heading: no such heading",
    "docs/planted.md:1 link: ../../outside.md: no such file",
  ])
})
