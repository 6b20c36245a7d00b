import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeEach, describe, expect, it } from "vitest"
import { measure, readJson, writeJson } from "../src/FileTree.mjs"

const folder = mkdtempSync(join(tmpdir(), "uniprefill-tree-"))
const file = join(folder, "a/b.txt")
const nothing = () => false

beforeEach(() => {
  rmSync(folder, { recursive: true })
  mkdirSync(join(folder, "a/skipped"), { recursive: true })
  writeFileSync(file, "12345")
  writeFileSync(join(folder, "a/skipped/c.txt"), "123")
})
afterAll(() => rmSync(folder, { recursive: true }))

describe("FileTree", () => {
  it("measures files and bytes, without what is skipped", () => {
    expect(measure(folder, nothing)).toBe("2/8")
    expect(measure(folder, (name) => name === "skipped")).toBe("1/5")
    expect(measure(join(folder, "none"), nothing)).toBe("0/0")
  })

  it("sees a file that was removed or cut short", () => {
    truncateSync(file, 2)
    expect(measure(folder, nothing)).toBe("2/5")
    rmSync(file)
    expect(measure(folder, nothing)).toBe("1/3")
  })

  it("takes a JSON file that is cut short as missing", () => {
    const json = join(folder, "deep/x.json")
    writeJson(json, { a: 1 })
    expect(readJson(json)).toEqual({ a: 1 })
    truncateSync(json, 4)
    expect(readJson(json)).toBeUndefined()
  })
})
