export type Typed = Int32Array | Uint32Array | Float64Array | Float32Array | Uint16Array | Uint8Array

/** Elements that are compared, packed and shared as one. */
const pieceLength = 128

/** Bits of an element, by the code of a piece. */
const widths = [0, 1, 2, 4, 8, 16] as const

/** The code of a piece whose words are as they are in the array. */
const whole = 7

/**
 * Content of typed arrays at many moments, in pieces: what does not change from one moment to the next is shared, and integers take
 * no more bits than the largest of their piece needs (slabs have few holders). Places lie in one array for each moment.
 */
export class PackedPieces {
  private readonly moments: Array<Int32Array> = []
  private words = new Int32Array(0)
  private used = 0

  /** What is saved from here on belongs to another moment. Ends the one before. */
  begin(): void {
    this.end()
    this.words = new Int32Array(Math.max(4096, this.used))
    this.used = 0
  }

  /** Nothing more is saved. */
  end(): void {
    if (this.words.length > 0) this.moments.push(this.words.slice(0, this.used))
    this.words = new Int32Array(0)
  }

  /**
   * Where the content of `array` lies: of each piece its moment, and its first word and code. `copy` is what `places` say it was,
   * and becomes what it is; null for an array that is saved for the first time. Returns `places` where nothing has changed.
   */
  save(array: Typed, copy: Typed | null, places: Int32Array): Int32Array {
    let found = places
    if (copy === null) found = new Int32Array(2 * Math.ceil(array.length / pieceLength))
    for (let from = 0, at = 0; from < array.length; from += pieceLength, at += 2) {
      const end = Math.min(from + pieceLength, array.length)
      if (copy !== null) {
        if (isEqual(array, copy, from, end)) continue
        copy.set(array.subarray(from, end), from)
        if (found === places) found = places.slice()
      }
      found[at] = this.moments.length
      found[at + 1] = this.pack(array, from, end)
    }
    return found
  }

  /** Gives `array` the content that lies at `places`. */
  putBack(array: Typed, places: Int32Array): void {
    const own = array instanceof Int32Array ? array : isWhole(array) ? wordsOf(array, 0, array.length) : null
    for (let from = 0, at = 0; from < array.length; from += pieceLength, at += 2) {
      const moment = places[at]!
      const words = moment === this.moments.length ? this.words : this.moments[moment]!
      const first = places[at + 1]! >>> 3
      const code = places[at + 1]! & 7
      const end = Math.min(from + pieceLength, array.length)
      if (code < whole) unpack(array, from, end, words, first, widths[code]!)
      else copy(words, first, own!, from, end, array.BYTES_PER_ELEMENT >>> 2)
    }
  }

  private pack(array: Typed, from: number, end: number): number {
    const first = this.used
    const bits = isFloat(array) ? 32 : bitsOf(array, from, end)
    if (bits > 16) {
      const own = wordsOf(array, from, end)
      this.reserve(own.length)
      this.words.set(own, first)
      this.used += own.length
      return (first << 3) | whole
    }
    const code = widths.findIndex((width) => width >= bits)
    const width = widths[code]!
    const count = Math.ceil(((end - from) * width) / 32)
    this.reserve(count)
    const { words } = this
    words.fill(0, first, first + count)
    if (width > 0)
      for (let i = from, bit = 0; i < end; i++, bit += width) words[first + (bit >>> 5)]! |= array[i]! << (bit & 31)
    this.used += count
    return (first << 3) | code
  }

  private reserve(words: number): void {
    if (this.used + words <= this.words.length) return
    const larger = new Int32Array(2 * (this.used + words))
    larger.set(this.words)
    this.words = larger
  }
}

/** Words of a piece, as they are. No view is made for it: thousands of those for each look keep the collector busy. */
const copy = (words: Int32Array, first: number, own: Int32Array, from: number, end: number, each: number): void => {
  for (let i = from * each, at = first; i < end * each; i++, at++) own[i] = words[at]!
}

/** Elements of such arrays are words, one or two. */
const isWhole = (array: Typed): boolean => array.BYTES_PER_ELEMENT >= 4

const isFloat = (array: Typed): boolean => array instanceof Float64Array || array instanceof Float32Array

/** Bits that the largest of some integers takes; 32 where one is negative. */
const bitsOf = (array: Typed, from: number, end: number): number => {
  let any = 0
  for (let i = from; i < end; i++) any |= array[i]!
  return 32 - Math.clz32(any)
}

const unpack = (array: Typed, from: number, end: number, words: Int32Array, first: number, width: number): void => {
  if (width === 0) {
    array.fill(0, from, end)
    return
  }
  const mask = (1 << width) - 1
  for (let i = from, bit = 0; i < end; i++, bit += width) array[i] = (words[first + (bit >>> 5)]! >>> (bit & 31)) & mask
}

/** Whether two arrays of a kind hold the same bits: by words where they can be, since a loop over one kind of array is fast. */
const isEqual = (a: Typed, b: Typed, from: number, end: number): boolean => {
  const bytes = a.BYTES_PER_ELEMENT
  if ((((end - from) * bytes) & 3) !== 0 || ((a.byteOffset | b.byteOffset) & 3) !== 0) {
    for (let i = from; i < end; i++) if (!Object.is(a[i], b[i])) return false
    return true
  }
  const [one, other] = [wordsOf(a, from, end), wordsOf(b, from, end)]
  for (let i = 0; i < one.length; i++) if (one[i] !== other[i]) return false
  return true
}

/** Elements as 32-bit words. Requires that they begin and end with one. */
const wordsOf = (array: Typed, from: number, end: number): Int32Array => {
  const bytes = array.BYTES_PER_ELEMENT
  return new Int32Array(array.buffer, array.byteOffset + from * bytes, ((end - from) * bytes) / 4)
}
