import { mkdirSync, mkdtempSync, rmSync, truncateSync, utimesSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeEach, describe, expect, it } from "vitest"
import { measure, readJson, signature, writeJson } from "../src/FileTree.mjs"

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
    expect(measure(folder)).toBe("2/8")
    expect(measure(folder, (name) => name === "skipped")).toBe("1/5")
    expect(measure(join(folder, "none"))).toBe("0/0")
  })

  it("sees a file that was removed, cut short or touched", () => {
    const before = { measured: measure(folder), signed: signature([folder], nothing) }
    expect(signature([folder], nothing)).toBe(before.signed)
    truncateSync(file, 2)
    expect(measure(folder)).not.toBe(before.measured)
    writeFileSync(file, "54321")
    utimesSync(file, 1, 1)
    expect(measure(folder)).toBe(before.measured)
    expect(signature([folder], nothing)).not.toBe(before.signed)
    rmSync(file)
    expect(measure(folder)).not.toBe(before.measured)
  })

  it("takes a JSON file that is cut short as missing", () => {
    const json = join(folder, "deep/x.json")
    writeJson(json, { a: 1 })
    expect(readJson(json)).toEqual({ a: 1 })
    truncateSync(json, 4)
    expect(readJson(json)).toBeUndefined()
  })
})
