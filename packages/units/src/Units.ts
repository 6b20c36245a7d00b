/**
 * Branded integers and the only arithmetic that casts. Interfaces carry the brands; hot loops use plain numbers.
 */

declare const unit: unique symbol
type Unit<Name extends string> = number & { readonly [unit]: Name }

/** Positions of a prompt or an output, counted in vocabulary tokens. */
export type Tokens = Unit<"Tokens">
/** Rows of a kept set: tokens that survived the selections so far. */
export type Rows = Unit<"Rows">
/** Logical KV pages, each holding `pageSize` rows of one table. */
export type Pages = Unit<"Pages">
/** Equal units of the one memory pool. */
export type Slabs = Unit<"Slabs">
export type Bytes = Unit<"Bytes">
/** Integer microseconds since an origin that the shell chooses. */
export type Micros = Unit<"Micros">
/** 0-based index of a transformer layer. */
export type LayerIndex = Unit<"LayerIndex">
/** 0-based index of a segment of the drop schedule. */
export type SegmentIndex = Unit<"SegmentIndex">
/** Index of a slot in the executor: one request's content, page tables and last sampled token. */
export type SlotId = Unit<"SlotId">
/** A request, as the serving loop numbers it: unique for the loop's life, ascending in order of arrival. */
export type RequestId = Unit<"RequestId">
export type StepId = Unit<"StepId">

const integer =
  <U extends number>(name: string) =>
  (value: number): U => {
    if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`${name} must be an integer ≥ 0, got ${value}`)
    return value as U
  }

export const Tokens = integer<Tokens>("Tokens")
export const Rows = integer<Rows>("Rows")
export const Pages = integer<Pages>("Pages")
export const Slabs = integer<Slabs>("Slabs")
export const Bytes = integer<Bytes>("Bytes")
export const Micros = integer<Micros>("Micros")
export const LayerIndex = integer<LayerIndex>("LayerIndex")
export const SegmentIndex = integer<SegmentIndex>("SegmentIndex")
export const SlotId = integer<SlotId>("SlotId")
export const RequestId = integer<RequestId>("RequestId")
export const StepId = integer<StepId>("StepId")

/** ⌈dividend / divisor⌉ for integers ≥ 0. */
export const ceilDiv = (dividend: number, divisor: number): number => Math.floor((dividend + divisor - 1) / divisor)

/** Pages that hold `rows` rows. */
export const pagesFor = (rows: number, pageSize: number): Pages => ceilDiv(rows, pageSize) as Pages

/** The largest multiple of `step` that is ≤ `value`. */
export const roundDown = (value: number, step: number): number => value - (value % step)

/** Greatest common divisor; gcd(0, n) = n. */
export const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b))
