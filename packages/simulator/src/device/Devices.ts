import { decodeCalibration, type LinkCurve } from "@uniprefill/cost-model/Calibration"
import type { DeviceSpec } from "@uniprefill/cost-model/DeviceSpec"
import { likeNvlink4, nvlink4 } from "@uniprefill/cost-model/Links"
import h200 from "./h200.calibration.json" with { type: "json" }

const GiB = 1024 ** 3

/** Devices by name. Peaks are the vendors' for dense 16-bit matrix products with 32-bit accumulation. */
export const devices: ReadonlyMap<string, DeviceSpec> = new Map(
  [
    {
      name: "h200",
      label: "NVIDIA H200 SXM",
      peakTeraFlops: 989,
      memoryTeraBytes: 4.8,
      memoryBytes: 139 * GiB,
      linkGigaBytes: 450,
      links: likeNvlink4,
      calibration: decodeCalibration(h200),
    },
    datasheet("h100", "NVIDIA H100 SXM", 989, 3.35, 79, 450, nvlink4),
    datasheet("a100", "NVIDIA A100 SXM 80 GB", 312, 2.039, 79, 300),
    datasheet("h20", "NVIDIA H20", 148, 4, 95, 450, likeNvlink4),
    datasheet("b200", "NVIDIA B200", 2250, 8, 178, 900),
    datasheet("mi300x", "AMD Instinct MI300X", 1307, 5.3, 191, 448),
    datasheet("l40s", "NVIDIA L40S", 362, 0.864, 44, 32),
    datasheet("rtx-4090", "NVIDIA GeForce RTX 4090", 165.2, 1.008, 23.5, 32),
    datasheet("rtx-pro-6000", "NVIDIA RTX PRO 6000 Blackwell", 503.8, 1.792, 94.9, 64),
  ].map((device) => [device.name, device]),
)

function datasheet(
  name: string,
  label: string,
  peakTeraFlops: number,
  memoryTeraBytes: number,
  memoryGiB: number,
  linkGigaBytes: number,
  links: ReadonlyArray<LinkCurve> = [],
): DeviceSpec {
  const memoryBytes = memoryGiB * GiB
  return { name, label, peakTeraFlops, memoryTeraBytes, memoryBytes, linkGigaBytes, links, calibration: null }
}
