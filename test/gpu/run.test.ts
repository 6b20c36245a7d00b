/** How test/gpu/run reads its options, what it says of what is missing, and what it writes, with programs and a device that only say that they are. */
import { spawnSync } from "node:child_process"
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, expect, it } from "vitest"
import { root } from "../architecture/CopiedTree.ts"

let folder = ""
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "uniprefill-gpu-run-"))
  program("path/nvidia-smi", "echo NVIDIA H100 80GB HBM3")
  program("path/python3", "exit 1")
  program("build/bin/cuda_round_rows_check", "echo rounding; echo 'all \"rows\" are \\ as they were'")
  program("build/bin/cuda_gated_product_check", "echo ok 1; echo 3 wrong; exit 1")
})
afterEach(() => rmSync(folder, { recursive: true }))

const program = (path: string, text: string): void => {
  const file = join(folder, path)
  mkdirSync(join(file, ".."), { recursive: true })
  writeFileSync(file, `#!/bin/sh\n${text}\n`)
  chmodSync(file, 0o755)
}

const run = (...options: ReadonlyArray<string>) => {
  const { status, stdout, stderr } = spawnSync("sh", [join(root, "test/gpu/run"), ...options], {
    encoding: "utf8",
    env: { PATH: `${join(folder, "path")}:/usr/bin:/bin`, UNIPREFILL_BUILD: join(folder, "build") },
  })
  return { status, stdout, stderr }
}
const out = () => join(folder, "out")

it("runs the parts that are asked for in the order of the list, and goes on behind one that fails", () => {
  const { status, stdout, stderr } = run("--only", "gated-product,round-rows", out())
  expect(stderr).toBe("")
  expect(status).toBe(1)
  expect(stdout).toMatch(
    /^== round-rows\nall "rows" are \\ as they were\nround-rows: \d+\.\d s\n== gated-product\nFAILED: gated-product, after \d+\.\d s\n3 wrong\nfailed: gated-product\n$/,
  )
  expect(readFileSync(join(out(), "gated-product.log"), "utf8")).toBe("ok 1\n3 wrong\n")
  const rows = readFileSync(join(out(), "results.jsonl"), "utf8").trimEnd().split("\n")
  expect(rows.map((row) => JSON.parse(row) as unknown)).toEqual([
    { part: "round-rows", ok: true, seconds: expect.any(Number), last: 'all "rows" are \\ as they were' },
    { part: "gated-product", ok: false, seconds: expect.any(Number), last: "3 wrong" },
  ])
  expect(run("--only", "round-rows", out()).status).toBe(0)
  expect(readFileSync(join(out(), "results.jsonl"), "utf8").trimEnd().split("\n")).toHaveLength(3)
})

it("says what parts lack before anything runs", () => {
  const { status, stdout, stderr } = run("--only", "round-rows,bounds,check", out())
  expect([status, stdout]).toEqual([2, ""])
  expect(stderr).toBe(
    "check lacks a python3 with torch\n" +
      "bounds lacks bin/cuda_operator_bounds in UNIPREFILL_BUILD\n" +
      "test/gpu/run: nothing was run: check bounds\n",
  )
})

it("names each input of the engine's parts that is missing", () => {
  program("path/node", "exit 1")
  const tree = join(folder, "tree")
  mkdirSync(join(tree, "test/gpu"), { recursive: true })
  writeFileSync(join(tree, "test/gpu/run"), readFileSync(join(root, "test/gpu/run")))
  const { status, stderr } = spawnSync("sh", [join(tree, "test/gpu/run"), "--only", "clients"], {
    encoding: "utf8",
    env: { PATH: `${join(folder, "path")}:/usr/bin:/bin` },
  })
  expect(status).toBe(2)
  expect(stderr).toBe(
    "clients lacks Node 24; node_modules: npm ci; uniprefill.node: node native/build.mjs, or UNIPREFILL_NATIVE; " +
      "the weights packages/needle-10m-deep/*.safetensors; the package openai: npm ci\n" +
      "test/gpu/run: nothing was run: clients\n",
  )
})

it("leaves out what needs a sanitizer or several devices, but not where it is asked for by name", () => {
  const all = run("--quick", out())
  expect(all.stdout).toContain("not run: tensor-parallel, for want of a second device; bin/cuda_tensor_parallel_check")
  expect(all.stderr).not.toContain("tensor-parallel")
  const asked = run("--only", "tensor-parallel", out())
  expect([asked.status, asked.stdout]).toEqual([2, ""])
  expect(asked.stderr).toContain("tensor-parallel lacks a second device")
})

it("lists the parts of every group without a device, each name once", () => {
  program("path/nvidia-smi", "exit 1")
  const { status, stdout } = run("--list")
  expect(status).toBe(0)
  const names = stdout
    .trimEnd()
    .split("\n")
    .map((line) => line.split(/ +/))
  expect(new Set(names.map(([, group]) => group))).toEqual(new Set(["check", "time", "engine"]))
  expect(new Set(names.map(([name]) => name)).size).toBe(names.length)
})

it("asks for programs that the build makes", () => {
  const programs = [...run("--list").stdout.matchAll(/program:(\w+)/g)].map(([, name]) => name!)
  const builds = readFileSync(join(root, "native/src/cuda/CMakeLists.txt"), "utf8")
  expect(programs.length).toBeGreaterThan(10)
  expect(
    programs.filter((name) => !new RegExp(`(add_cuda_program|add_custom_target)\\(${name}[ \\n]`).test(builds)),
  ).toEqual([])
})

it.each([
  [["--only", "round-rows,rounding"], "test/gpu/run: there is no part rounding; --list says which there are\n"],
  [["--only"], "test/gpu/run: --only needs names of parts; --list says which there are\n"],
  [["a", "b"], "test/gpu/run: one folder for results was expected, not a b\n"],
])("refuses %j", (options, said) => {
  expect(run(...options)).toEqual({ status: 2, stdout: "", stderr: said })
})

it("refuses where there is no device, and a build directory that is not there", () => {
  program("path/nvidia-smi", "exit 1")
  expect(run("--only", "round-rows", out()).stderr).toBe("test/gpu/run: nvidia-smi names no device\n")
  rmSync(join(folder, "build"), { recursive: true })
  expect(run("--quick").stderr).toBe(`test/gpu/run: UNIPREFILL_BUILD is ${join(folder, "build")}: no such folder\n`)
})
