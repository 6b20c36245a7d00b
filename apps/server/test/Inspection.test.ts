import { execFile } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import type { Inspection } from "uniprefill/quality/Inspection"
import { drawInspection, inspectionHtml } from "uniprefill/quality/InspectionPicture"
import { afterAll, describe, expect, it } from "vitest"
import { modelDirectory } from "./TestServer.ts"

const folder = mkdtempSync(join(tmpdir(), "uniprefill-inspect-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const inspection: Inspection = {
  format: "uniprefill-inspection",
  version: 1,
  model: "tiny",
  device: "cpu",
  promptTokens: 200,
  answer: "7",
  dense: "8",
  selections: [
    { layer: 3, p: 0.9, rows: 120, others: [{ p: 0.5, rows: 80 }] },
    { layer: 5, p: 0.8, rows: 60, others: [{ p: 0.5, rows: 40 }] },
  ],
  pieces: [
    { text: "kept ", tokens: 60, keptBy: 2 },
    { text: "<half> ", tokens: 60, keptBy: 1 },
    { text: "gone", tokens: 80, keptBy: 0 },
  ],
  block: 64,
  blocks: [
    { first: 0, above: null },
    { first: 64, above: [0.5, 0.7] },
  ],
}

describe("the picture of an inspection", () => {
  it("marks without colour what each piece is kept by, and shades it with", () => {
    const plain = drawInspection(inspection, { colour: false })
    expect(plain).toContain("⟦2⟧kept ⟦1⟧<half> ⟦0⟧gone\n")
    expect(plain).toContain("⟦1⟧ dropped at layer 5 \n⟦2⟧ seen by every layer ")
    expect(plain).toContain("answer: 7; dense: 8\n")
    expect(plain).toContain("layer 5 keeps 30% of the prompt at p 0.8; it would keep at p 0.5: 20%")
    const coloured = drawInspection(inspection, { colour: true })
    expect(coloured.replace(/\u001b\[[\d;]+m/g, "")).toBe(plain.replace(/⟦\d⟧/g, ""))
  })

  it("is a page that says the same, with the mass of every block", () => {
    const page = inspectionHtml(inspection)
    expect(page).toContain('title="dropped at layer 5">&lt;half&gt; </span>')
    expect(page).toContain(
      "<title>tokens 64 to 127: between 0.5 and 0.7 of the attention mass lies in blocks above it</title>",
    )
    expect(page).toContain("<title>tokens 0 to 63: always kept</title>")
    expect(page).not.toMatch(/<script|https?:/)
  })
})

describe("uniprefill inspect", () => {
  const main = fileURLToPath(new URL("../src/main.ts", import.meta.url))
  const uniprefill = (...args: ReadonlyArray<string>) =>
    promisify(execFile)(process.execPath, ["--conditions=source", main, "inspect", ...args])
  const text = readFileSync(`${modelDirectory}/demo/haystack.txt`, "utf8")
  const prompt = [
    text.slice(0, 2500),
    " The special magic number for quiet river is 4815162.",
    text.slice(9000, 11_500),
    "\nQuestion: What is the special magic number for quiet river?\nAnswer:",
  ].join("")

  it("gives the prompt back, with what the needle's block was kept by and what other p would keep", async () => {
    const file = join(folder, "prompt.txt")
    const page = join(folder, "kept.html")
    writeFileSync(file, `${prompt}\n`)
    const { stdout } = await uniprefill("--prompt", file, "--json", "--html", page)
    const found = JSON.parse(stdout) as Inspection
    expect(found).toMatchObject({ answer: "4815162", dense: "4815162" })
    expect(found.pieces.map((piece) => piece.text).join("")).toBe(prompt)
    expect(found.pieces.reduce((sum, { tokens }) => sum + tokens, 0)).toBe(found.promptTokens)
    expect(found.pieces.find((piece) => piece.text.includes("4815162"))!.keptBy).toBeGreaterThan(0)
    for (const { rows, p, others } of found.selections) {
      const kept = others.map((other) => other.rows)
      expect(kept).toEqual(kept.toSorted((a, b) => a - b))
      expect(others.find((other) => other.p === p)!.rows).toBe(rows)
      expect(kept[0]!).toBeLessThan(rows)
    }
    // What p keeps, by the blocks' own account of it: those whose mass above lies below p.
    const [first] = found.selections
    const open = found.blocks.filter(({ above }) => above === null || above[1] <= first!.p)
    expect(Math.abs(open.length * 64 - first!.rows)).toBeLessThan(64)
    expect(readFileSync(page, "utf8")).toContain("4815162")
  })

  it.each([
    [["--prompt", "nowhere.txt"], /--prompt nowhere\.txt: no such file or directory\n$/],
    [["--prompt", fileURLToPath(new URL("../package.json", import.meta.url))], /nothing is dropped/],
  ])("%j is refused with what is wrong", async (args, message) => {
    await expect(uniprefill(...args)).rejects.toMatchObject({ code: 2, stderr: expect.stringMatching(message) })
  })
})
