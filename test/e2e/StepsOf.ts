/** The calibration of a device whose steps take so many ms, whatever is in them. */
export const stepsOf = (millis: number) => {
  const rate = [{ at: 1, teraFlops: 1000 }]
  return {
    format: "uniprefill-calibration",
    version: 3,
    device: "paced",
    source: "assumed",
    note: "steps of a given length",
    gemm: rate,
    attention: rate,
    copyTeraBytes: 1000,
    stepMicros: millis * 1000,
    itemMicros: 0,
  }
}
