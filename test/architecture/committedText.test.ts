import { describe, expect, it } from "vitest"
import { checkCommittedText, checkLength, checkText, committedFiles, longFileReasons } from "./CommittedText.ts"
import { root } from "./CopiedTree.ts"
import { render } from "./Violation.ts"

describe("this repository", () => {
  it("has no local paths, registries, unfinished notes, silenced tests or files without end", () => {
    expect(committedFiles(root)).toContain("README.md")
    expect(render(checkCommittedText(root))).toEqual([])
  })

  it("gives reasons only for files that are there", () => {
    expect(committedFiles(root)).toEqual(expect.arrayContaining([...longFileReasons.keys()]))
  })
})

/** Joined here, so that the check does not find them in this file. */
const join = (...pieces: ReadonlyArray<string>) => pieces.join("")

const planted: ReadonlyArray<readonly [rule: string, file: string, text: string]> = [
  ["local-path", "docs/a.md", join("see /wo", "rk/main/notes")],
  ["local-path", "packages/units/src/A.ts", join("// /home", "/someone/model")],
  ["registry", "package-lock.json", join('"resol', 'ved": "https://packages.example/a.tgz"')],
  ["registry", ".npmrc", join("regis", "try=https://example.org")],
  ["registry", "docs/a.md", join("https://npm.regis", "try.example.org/")],
  ["registry", "docs/a.md", join("http://10.", "0.0.1/simple")],
  ["unfinished", "native/src/a.cpp", join("int a; // TO", "DO: b")],
  ["unfinished", "packages/units/src/A.ts", join("// FIX", "ME")],
  ["unfinished", "docs/plan.md", join("- [", " ] later")],
  ["silenced-test", "packages/units/test/A.test.ts", join("it.sk", 'ip("a", () => {})')],
  ["silenced-test", "packages/units/test/A.test.ts", join("describe.on", 'ly("a", () => {})')],
  ["silenced-test", "packages/units/test/A.test.ts", join("it.effect.to", 'do("a")')],
  ["silenced-check", "packages/units/src/A.ts", join("// @ts-", "ignore")],
]

describe("planted violations", () => {
  it.each(planted)("%s in %s is found", (rule, file, text) => {
    expect(checkText(file, `first line\n${text}\n`)).toEqual([expect.objectContaining({ rule, file, line: 2 })])
  })

  it("a file that is too long is found", () => {
    expect(checkLength("packages/units/src/A.ts", "\n".repeat(600))).toHaveLength(1)
    expect(checkLength("packages/units/src/A.ts", "\n".repeat(400))).toHaveLength(0)
  })

  it("a skip with a reason and words of the field are not violations", () => {
    const text = 'context.skip("no GPU")\nconst workers = 2 // the todos of others, /network/, tokens only (here)\n'
    expect(checkText("packages/units/test/A.test.ts", text)).toEqual([])
  })
})
