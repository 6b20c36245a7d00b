const one = 2 ** 40

/**
 * Block masses of each head as unsigned fixed point with 40 fractional bits, summed over heads. Integer sums, so that the
 * order of heads (and of tensor-parallel ranks) does not matter.
 */
export const massesToFixedPoint = (heads: ReadonlyArray<Float64Array>): Array<bigint> =>
  Array.from(heads[0]!, (_, block) => heads.reduce((sum, mass) => sum + BigInt(Math.round(mass[block]! * one)), 0n))
