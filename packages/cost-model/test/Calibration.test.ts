import { type Calibration, CalibrationError, decodeCalibration } from "@uniprefill/cost-model/Calibration"
import { calibrationOf, type DeviceSpec, linkOf } from "@uniprefill/cost-model/DeviceSpec"
import { LinkTime } from "@uniprefill/cost-model/LinkTime"
import { describe, expect, it } from "vitest"

const point = { at: 64, teraFlops: 1 }
const link = { library: "nccl", ranks: 2, source: "measured", points: [{ bytes: 1024, micros: 10 }] } as const
const file: Calibration = {
  format: "uniprefill-calibration",
  version: 3,
  device: "a device",
  source: "measured",
  note: "",
  gemm: [point],
  attention: [point],
  copyTeraBytes: 2,
  stepMicros: 0,
  itemMicros: 2.5,
  keyTeraBytes: 1.5,
  decodeRowMicros: 3,
  decode: [
    { at: 1, teraBytes: 2 },
    { at: 64, teraBytes: 1.5 },
  ],
  mixedMicros: 1,
  mixedRowMicros: 1,
  selectionMicros: 40,
  readBackMicros: 55,
  scoreTeraFlops: 100,
  links: [link],
}

describe("a calibration file", () => {
  it("passes as it is", () => {
    expect(decodeCalibration(JSON.parse(JSON.stringify(file)))).toEqual(file)
  })

  it("of version 2 has one time for the selections behind a segment, whatever their number", () => {
    const { decode: _decode, readBackMicros: _readBackMicros, ...old } = file
    const { selectionMicros: readBackMicros, ...same } = old
    expect(decodeCalibration({ ...old, version: 2 })).toEqual({ ...same, version: 3, readBackMicros })
    const { selectionMicros: _none, ...without } = old
    expect(decodeCalibration({ ...without, version: 2 })).toEqual({ ...without, version: 3 })
  })

  it.each<[unknown, string]>([
    [null, "a calibration is a JSON object"],
    [[file], "a calibration is a JSON object"],
    [{ ...file, format: "uniprefill-costs" }, 'format is "uniprefill-costs", expected "uniprefill-calibration"'],
    [{ ...file, version: 1 }, "version is 1, expected 2 or 3"],
    [{ ...file, device: 4 }, "device is missing or not a string"],
    [{ ...file, source: "guessed" }, 'source is "guessed", expected "measured" or "fitted" or "assumed"'],
    [{ ...file, gemm: [] }, "gemm is not a list of points"],
    [{ ...file, gemm: [point, point] }, "gemm.1.at is 64 after 64; points ascend"],
    [{ ...file, attention: [{ at: 2, teraFlops: "x" }] }, 'attention.0.teraFlops is "x", expected a number above 0'],
    [{ ...file, copyTeraBytes: 0 }, "copyTeraBytes is 0, expected a number above 0"],
    [{ ...file, stepMicros: -1 }, "stepMicros is -1, expected a number of at least 0"],
    [{ ...file, keyTeraBytes: 0 }, "keyTeraBytes is 0, expected a number above 0"],
    [{ ...file, selectionMicros: -3 }, "selectionMicros is -3, expected a number of at least 0"],
    [{ ...file, layerMicros: NaN }, "layerMicros is null, expected a number of at least 0"],
    [{ ...file, fittedTo: { tensorParallel: 1 } }, "fittedTo.model is missing or not a string"],
    [{ ...file, links: [{ ...link, ranks: 0 }] }, "links.0.ranks is 0, expected a number above 0"],
    [{ ...file, links: [{ ...link, library: "mpi" }] }, 'links.0.library is "mpi", expected "nccl" or "peer-to-peer"'],
    [{ ...file, links: [{ ...link, points: [] }] }, "links.0.points is not a list of points"],
    [{ ...file, decode: [{ at: 1, teraFlops: 2 }] }, "decode.0.teraBytes is undefined, expected a number above 0"],
    [{ ...file, readBackMicros: "5" }, 'readBackMicros is "5", expected a number of at least 0'],
    [{ ...file, speed: 1 }, 'unknown field "speed"'],
    [{ ...file, version: 2 }, 'unknown field "decode" of version 2'],
  ])("is refused as %j", (value, message) => {
    expect(() => decodeCalibration(value)).toThrow(new CalibrationError(message))
  })
})

describe("all-reduces", () => {
  const device: DeviceSpec = {
    name: "x",
    label: "X",
    peakTeraFlops: 100,
    memoryTeraBytes: 1,
    memoryBytes: 1e9,
    linkGigaBytes: 100,
    calibration: file,
  }

  it("take the first point's time, lie on lines between points, and go on along the last", () => {
    const points = [
      { bytes: 1000, micros: 10 },
      { bytes: 2000, micros: 12 },
      { bytes: 4000, micros: 20 },
    ]
    const time = new LinkTime({ library: "nccl", ranks: 2, source: "public", points })
    const sizes = [1, 1000, 1500, 2000, 3000, 4000, 6000]
    expect(sizes.map((bytes) => time.microsOf(bytes))).toEqual([10, 10, 11, 12, 16, 20, 28])
  })

  it("between ranks that nobody measured are a floor and a ring over the datasheet's link, and say so", () => {
    expect(linkOf(device, "nccl", 1)).toBeNull()
    expect(linkOf(device, "nccl", 2)).toBe(link)
    const assumed = linkOf(device, "nccl", 4)!
    expect(assumed.source).toBe("assumed")
    const time = new LinkTime(assumed)
    expect(time.microsOf(1)).toBe(30)
    // 2 · 3 / 4 of the bytes over 74 GB/s.
    expect(time.microsOf(1e9) / ((1.5 * 1e9) / 74e3)).toBeCloseTo(1, 3)
  })

  it("and rates that nobody measured are shares of the datasheet's peaks", () => {
    expect(calibrationOf({ ...device, calibration: null })).toMatchObject({
      source: "assumed",
      device: "X",
      gemm: [{ teraFlops: 70 }],
      attention: [{ teraFlops: 50 }],
      copyTeraBytes: 0.85,
    })
  })
})
