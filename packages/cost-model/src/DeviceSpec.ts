import type { Calibration, LinkCurve, LinkLibrary } from "./Calibration.ts"
import { linkBetween } from "./Links.ts"

/** An accelerator as its datasheet describes it, with what was measured on it, if anything was. */
export interface DeviceSpec {
  /** As scenarios name it. */
  readonly name: string
  readonly label: string
  /** Dense 16-bit matrix products, 10¹² FLOP per second. */
  readonly peakTeraFlops: number
  /** Memory bandwidth, 10¹² bytes per second. */
  readonly memoryTeraBytes: number
  readonly memoryBytes: number
  /** Bandwidth to the other devices of a tensor-parallel group, each direction, 10⁹ bytes per second. */
  readonly linkGigaBytes: number
  /** All-reduces over such links, where any were timed. */
  readonly links?: ReadonlyArray<LinkCurve> | undefined
  /** Null: only the datasheet is known. */
  readonly calibration: Calibration | null
}

/**
 * Shares of the datasheet's peaks assumed where nothing was measured: what well-tuned libraries reach at sizes that fill the
 * device.
 */
export const assumedShares = { gemm: 0.7, attention: 0.5, memory: 0.85 } as const

/** What a device does: as measured, or its datasheet's peaks times the assumed shares. */
export const calibrationOf = (device: DeviceSpec): Calibration =>
  device.calibration ?? {
    format: "uniprefill-calibration",
    version: 3,
    device: device.label,
    source: "assumed",
    note: "datasheet peaks × assumed shares",
    gemm: [{ at: 1, teraFlops: device.peakTeraFlops * assumedShares.gemm }],
    attention: [{ at: 1, teraFlops: device.peakTeraFlops * assumedShares.attention }],
    copyTeraBytes: device.memoryTeraBytes * assumedShares.memory,
    stepMicros: 0,
    itemMicros: 0,
  }

/** All-reduces between `ranks` such devices; null for one. */
export const linkOf = (device: DeviceSpec, library: LinkLibrary, ranks: number): LinkCurve | null =>
  linkBetween([...(device.calibration?.links ?? []), ...(device.links ?? [])], device.linkGigaBytes, library, ranks)
