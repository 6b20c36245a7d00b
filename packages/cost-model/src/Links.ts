import type { LinkCurve, LinkLibrary } from "./Calibration.ts"

const curve = (
  library: LinkCurve["library"],
  ranks: number,
  source: LinkCurve["source"],
  points: ReadonlyArray<readonly [kilobytes: number, micros: number]>,
): LinkCurve => ({
  library,
  ranks,
  source,
  points: points.map(([kilobytes, micros]) => ({ bytes: kilobytes * 1024, micros })),
})

/** A large all-reduce over a ring: 2 (n − 1) / n of the bytes at what NCCL reaches between two H100, 333 GB/s. */
const ring = (ranks: number, kilobytes: number): readonly [number, number] => [
  kilobytes,
  Math.round((2 * (ranks - 1) * kilobytes * 1024) / ranks / 333e3),
]

/**
 * All-reduces over NVLink 4. Measured on H100 SXM (NV18), bf16: NCCL between two in a CUDA graph, from 64 MB on eager; peer to
 * peer, the engine's own sums, between two and four. NCCL's 1 MB between four and eight are public figures, larger sizes a ring at
 * the bandwidth measured between two.
 */
export const nvlink4: ReadonlyArray<LinkCurve> = [
  curve("nccl", 2, "measured", [
    [8, 12],
    [128, 12.5],
    [512, 14.8],
    [1024, 19.4],
    [4096, 36.9],
    [16_384, 80],
    [65_536, 256],
    [262_144, 894],
    [1_048_576, 3224],
  ]),
  curve("nccl", 4, "public", [[1024, 40], ring(4, 65_536), ring(4, 1_048_576)]),
  curve("nccl", 8, "public", [[1024, 45], ring(8, 65_536), ring(8, 1_048_576)]),
  curve("peer-to-peer", 2, "measured", [
    [8, 6.5],
    [128, 6.9],
    [512, 8.8],
    [1024, 10.4],
    [4096, 24.2],
    [16_384, 66],
    [65_536, 223],
    [262_144, 842],
    [1_048_576, 3306],
  ]),
  curve("peer-to-peer", 4, "measured", [
    [8, 6.8],
    [128, 7.9],
    [512, 12.6],
    [1024, 17.4],
    [4096, 32],
    [16_384, 96],
    [65_536, 331],
    [262_144, 1269],
    [1_048_576, 5021],
  ]),
]

/** The same curves on a device that they were not measured on. */
export const likeNvlink4: ReadonlyArray<LinkCurve> = nvlink4.map((one) => ({ ...one, source: "assumed" }))

/** Least time of an all-reduce where none was measured, µs, and the share of a link's bandwidth that large ones reach. */
const assumedLink = { floorMicros: { nccl: 30, "peer-to-peer": 12 }, share: 0.74 } as const

/**
 * All-reduces between `ranks` devices: the curve that is known of them, or a floor and a ring over a link of `linkGigaBytes`, 10⁹
 * bytes per second each direction. Null for one rank.
 */
export const linkBetween = (
  known: ReadonlyArray<LinkCurve>,
  linkGigaBytes: number,
  library: LinkLibrary,
  ranks: number,
): LinkCurve | null => {
  if (ranks === 1) return null
  const found = known.find((one) => one.library === library && one.ranks === ranks)
  if (found !== undefined) return found
  // A ring sends 2 (n − 1) / n of the bytes over each link.
  const bytesPerMicro = (linkGigaBytes * 1e3 * assumedLink.share * ranks) / (2 * (ranks - 1))
  const floor = assumedLink.floorMicros[library]
  const corner = Math.ceil(floor * bytesPerMicro)
  const points = [
    { bytes: corner, micros: floor },
    { bytes: 1000 * corner, micros: 1000 * floor },
  ]
  return { library, ranks, source: "assumed", points }
}
