import { describe, expect, it } from "vitest"
import { type CostTable, CostTableError, decodeCostTable } from "@uniprefill/cost-model/CostTable"

const table: CostTable = {
  format: "uniprefill-cost-model",
  version: 1,
  device: "a device",
  source: "measured",
  gemmFlopsPerMicro: 300_000,
  attentionFlopsPerMicro: 200_000,
  bytesPerMicro: 20_000,
  stepMicros: 0,
  itemMicros: 2.5,
}
const { device: _, ...withoutDevice } = table

describe("a cost table from a file", () => {
  it("passes as it is", () => {
    expect(decodeCostTable(JSON.parse(JSON.stringify(table)))).toEqual(table)
  })

  it.each<[unknown, string]>([
    [null, "a cost model is a JSON object"],
    [[table], "a cost model is a JSON object"],
    ["table", "a cost model is a JSON object"],
    [{}, 'format is undefined, expected "uniprefill-cost-model"'],
    [{ ...table, version: 2 }, "version is 2, expected 1"],
    [withoutDevice, "device is missing or not a string"],
    [{ ...table, source: "guessed" }, 'source is "guessed", expected "measured" or "assumed"'],
    [{ ...table, comment: "" }, 'unknown field "comment"'],
  ])("is refused as %j", (value, message) => {
    expect(() => decodeCostTable(value)).toThrow(new CostTableError(message))
  })

  it.each(["gemmFlopsPerMicro", "attentionFlopsPerMicro", "bytesPerMicro"])("has a rate above 0 as %s", (field) => {
    for (const wrong of [0, -1, NaN, Infinity, "1", null, undefined]) {
      expect(() => decodeCostTable({ ...table, [field]: wrong })).toThrow(
        new CostTableError(`${field} is ${JSON.stringify(wrong)}, expected a number above 0`),
      )
    }
  })

  it.each(["stepMicros", "itemMicros"])("has a time of at least 0 as %s", (field) => {
    for (const wrong of [-0.1, NaN, Infinity, "1", null, undefined]) {
      expect(() => decodeCostTable({ ...table, [field]: wrong })).toThrow(
        new CostTableError(`${field} is ${JSON.stringify(wrong)}, expected a number of at least 0`),
      )
    }
  })
})
