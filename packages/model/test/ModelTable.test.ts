import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { NodeServices } from "@effect/platform-node"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import { modelTable } from "@uniprefill/model/ModelTable"
import { Effect } from "effect"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { tinyModels, writeTinyModel } from "../../../test/golden/tinyModels.ts"

const root = mkdtempSync(join(tmpdir(), "uniprefill-tables-"))
beforeAll(() => {
  for (const name of tinyModels) writeTinyModel(join(root, name), name)
})
afterAll(() => rmSync(root, { recursive: true, force: true }))

interface Table {
  readonly identity: string
  readonly files: ReadonlyArray<string>
  readonly index: { readonly file: string; readonly weightMap: Readonly<Record<string, string>> } | null
  readonly ignore: ReadonlyArray<string>
  readonly tensors: Readonly<Record<string, string>>
  readonly layers: ReadonlyArray<{
    readonly mixer: Readonly<Record<string, unknown>>
    readonly mlp: { readonly kind: string; readonly experts?: number; readonly fused?: boolean }
    readonly tensors: Readonly<Record<string, string>>
  }>
}

const tableOf = async (directory: string): Promise<Table> => {
  const model = await Effect.runPromise(loadModelDirectory(directory).pipe(Effect.provide(NodeServices.layer)))
  return JSON.parse(modelTable(model)) as Table
}

/** Names in the header of a file of weights. */
const namesIn = (file: string): ReadonlyArray<string> => {
  const bytes = readFileSync(file)
  const header = JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE(0))).toString()) as object
  return Object.keys(header).filter((name) => name !== "__metadata__")
}

/** Every tensor that a table names, experts counted out. */
const namesOf = ({ tensors, layers }: Table): ReadonlySet<string> => {
  const named = new Set(Object.values(tensors))
  for (const layer of layers) {
    for (const name of Object.values(layer.tensors)) {
      if (!name.includes("{e}")) named.add(name)
      else for (let e = 0; e < layer.mlp.experts!; e++) named.add(name.replace("{e}", String(e)))
    }
  }
  return named
}

describe("the table for the native library", () => {
  it("says how weights are rounded", async () => {
    const model = await Effect.runPromise(
      loadModelDirectory(join(root, tinyModels[0]!)).pipe(Effect.provide(NodeServices.layer)),
    )
    expect(JSON.parse(modelTable(model))).toMatchObject({ quantization: "none" })
    expect(JSON.parse(modelTable(model, "fp8"))).toMatchObject({ quantization: "fp8" })
  })

  it.each(tinyModels)("names the tensors of %s and no others", async (name) => {
    const table = await tableOf(join(root, name))
    expect(table.files).toEqual([join(root, name, "model.safetensors")])
    expect([...namesOf(table)].toSorted()).toEqual(namesIn(table.files[0]!).toSorted())
  })

  it("has what the format says, field by field", async () => {
    const table = await tableOf(join(root, "qwen3-next"))
    expect(table).toMatchObject({
      format: "uniprefill-model",
      version: 1,
      architecture: "Qwen3NextForCausalLM",
      hiddenSize: 64,
      vocabSize: 64,
      maxPositions: 512,
      embeddingScale: 1,
      logitSoftCap: 0,
      finalNorm: { eps: 1e-6, offset: 1 },
      index: null,
      ignore: ["*.rotary_emb.inv_freq", "mtp.*", "model.visual.*"],
      tensors: { embedding: "model.embed_tokens.weight", finalNorm: "model.norm.weight", lmHead: "lm_head.weight" },
    })
    const [delta, full] = table.layers
    expect(delta).toMatchObject({ norm: { eps: 1e-6, offset: 1 }, postNorms: false })
    expect(delta!.mixer).toEqual({
      kind: "delta",
      keyHeads: 2,
      valueHeads: 4,
      keyDim: 16,
      valueDim: 16,
      convKernel: 4,
      grouped: true,
      normaliseInput: "float",
      normEps: 1e-6,
    })
    expect(delta!.mlp).toEqual({
      kind: "moe",
      activation: "silu",
      experts: 8,
      topK: 3,
      inner: 32,
      renormalise: true,
      sharedInner: 48,
      fused: false,
    })
    expect(full!.mixer).toEqual({
      kind: "full",
      window: 0,
      heads: 4,
      kvHeads: 2,
      headDim: 32,
      scale: 1 / Math.sqrt(32),
      softCap: 0,
      rope: { theta: 100_000, dim: 8, scaling: { type: "none" } },
      qkNorm: { eps: 1e-6, offset: 1 },
      outputGate: true,
    })
    expect(full!.mlp).toEqual({ kind: "gated", activation: "silu", inner: 96 })
    expect((await tableOf(join(root, "qwen3.5-moe-fused"))).layers[0]!.mlp.fused).toBe(true)
  })

  it("is identified by the bytes of config.json", async () => {
    const copy = join(root, "copy")
    cpSync(join(root, "llama-gqa"), copy, { recursive: true })
    const before = await tableOf(copy)
    expect(before.identity).toMatch(/^[0-9a-f]{16}$/)
    const config = readFileSync(join(copy, "config.json"), "utf8")
    writeFileSync(join(copy, "config.json"), `${config} `)
    expect((await tableOf(copy)).identity).not.toBe(before.identity)
    writeFileSync(join(copy, "config.json"), config)
    expect((await tableOf(copy)).identity).toBe(before.identity)
    // FNV-1a of "a" is known: af63dc4c8601ec8c.
    const { fnv1a64 } = await import("@uniprefill/model/Fnv")
    expect(fnv1a64(Buffer.from("a"))).toBe("af63dc4c8601ec8c")
  })

  it("brings the index where there is one, and only its files", async () => {
    const embedded = fileURLToPath(new URL("../../needle-10m-deep", import.meta.url))
    const table = await tableOf(embedded)
    expect(table.files).toEqual([1, 2, 3, 4].map((i) => join(embedded, `model-0000${i}-of-00004.safetensors`)))
    expect(table.index!.file).toBe(join(embedded, "model.safetensors.index.json"))
    expect(Object.keys(table.index!.weightMap).toSorted()).toEqual([...namesOf(table)].toSorted())
    expect(table.tensors["lmHead"]).toBe("model.embed_tokens.weight")
  })

  it("is made whatever an unreadable header holds: the runner reads all of it and says so", async () => {
    const broken = join(root, "broken")
    mkdirSync(broken)
    cpSync(join(root, "llama-gqa", "config.json"), join(broken, "config.json"))
    for (const bytes of [Buffer.alloc(0), Buffer.from([255, 255, 255, 255, 255, 255, 255, 255, 1])]) {
      writeFileSync(join(broken, "model.safetensors"), bytes)
      expect((await tableOf(broken)).layers).toHaveLength(3)
    }
  })
})
