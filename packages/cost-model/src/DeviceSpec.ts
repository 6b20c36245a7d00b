import type { Calibration } from "./Calibration.ts"

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
  /** Null: only the datasheet is known, and every prediction is flagged as uncalibrated. */
  readonly calibration: Calibration | null
}

/**
 * Shares of the datasheet's peaks assumed where nothing was measured: what well-tuned libraries reach at sizes that fill the
 * device.
 */
export const assumedShares = { gemm: 0.7, attention: 0.5, memory: 0.85 } as const
