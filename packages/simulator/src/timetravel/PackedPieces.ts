export type Typed = Int32Array | Uint32Array | Float64Array | Float32Array | Uint16Array | Uint8Array

/** Elements that are compared, packed and shared as one. */
const pieceLength = 128

/** Bits of an element, by the code of a piece. */
const widths = [0, 1, 2, 4, 8, 16] as const

/** The code of a piece whose words are as they are in the array. */
const whole = 7

const none = new Int32Array(0)

/** What is known of an array whose content is saved again and again. */
export class Known {
  /** As it was saved last, in the first `length` elements. */
  copy: Typed = none
  length = 0
  places = none
}

/**
 * Content of typed arrays at many moments, in pieces: what does not change from one moment to the next is shared, and integers take
 * no more bits than the largest of their piece needs (slabs have few holders). Places lie in one array for each moment.
 */
export class PackedPieces {
  private readonly moments: Array<Int32Array> = []
  private words = new Int32Array(0)
  private used = 0
  /** Of the piece at hand. */
  private readonly unpacked = new Int32Array(pieceLength)

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
   * Where the first `length` elements of `array` lie: of each piece its moment, and its first word and code. `known` says what was
   * saved of the array before, and says then what is saved now. The places are those before where nothing has changed.
   */
  save(array: Typed, length: number, known: Known): Int32Array {
    if (known.copy.length !== array.length) {
      known.copy = array.slice()
      known.length = 0
    }
    const { copy } = known
    const isAsLong = known.length === length
    // A piece that has become longer or shorter is another one.
    const comparable = isAsLong ? length : Math.floor(Math.min(known.length, length) / pieceLength) * pieceLength
    const own = wordsOf(array)
    const other = wordsOf(copy)
    let places = isAsLong ? known.places : new Int32Array(2 * Math.ceil(length / pieceLength))
    for (let from = 0, at = 0; from < length; from += pieceLength, at += 2) {
      const end = Math.min(from + pieceLength, length)
      if (end <= comparable && isEqual(array, copy, own, other, from, end)) {
        places[at] = known.places[at]!
        places[at + 1] = known.places[at + 1]!
        continue
      }
      if (places === known.places) places = places.slice()
      places[at] = this.moments.length
      places[at + 1] = this.pack(array, own, from, end)
      copy.set(array.subarray(from, end), from)
    }
    known.length = length
    known.places = places
    return places
  }

  /** Gives the first `length` elements of `array` the content that lies at `places`. */
  putBack(array: Typed, length: number, places: Int32Array): void {
    const own = array.BYTES_PER_ELEMENT < 4 ? null : wordsOf(array)
    for (let from = 0, at = 0; from < length; from += pieceLength, at += 2) {
      const moment = places[at]!
      const words = moment === this.moments.length ? this.words : this.moments[moment]!
      const first = places[at + 1]! >>> 3
      const code = places[at + 1]! & 7
      const end = Math.min(from + pieceLength, length)
      if (code === whole) copyWords(words, first, own!, from, end, array.BYTES_PER_ELEMENT >>> 2)
      else if (code === 0) array.fill(0, from, end)
      else if (own !== null) unpack(words, first, widths[code]!, own, from, end - from)
      else {
        const { unpacked } = this
        unpack(words, first, widths[code]!, unpacked, 0, end - from)
        array.set(end - from === pieceLength ? unpacked : unpacked.subarray(0, end - from), from)
      }
    }
  }

  private pack(array: Typed, own: Int32Array, from: number, end: number): number {
    const first = this.used
    const bits = isFloat(array) ? floatBitsOf(array, own, from, end) : bitsOf(array, from, end)
    if (bits > 16) {
      const each = array.BYTES_PER_ELEMENT >>> 2
      this.reserve((end - from) * each)
      this.words.set(own.subarray(from * each, end * each), first)
      this.used += (end - from) * each
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
const copyWords = (
  words: Int32Array,
  first: number,
  own: Int32Array,
  from: number,
  end: number,
  each: number,
): void => {
  for (let i = from * each, at = first; i < end * each; i++, at++) own[i] = words[at]!
}

/** Of one kind of array only, word by word: a loop that meets many kinds takes ten times as long. */
const unpack = (words: Int32Array, first: number, width: number, to: Int32Array, from: number, count: number): void => {
  const mask = (1 << width) - 1
  const end = from + count
  for (let i = from, at = first; i < end; at++) {
    let word = words[at]!
    const last = Math.min(end, i + 32 / width)
    for (; i < last; i++, word >>>= width) to[i] = word & mask
  }
}

const isFloat = (array: Typed): boolean => array instanceof Float64Array || array instanceof Float32Array

/** Bits that the largest of some integers takes; 32 where one is negative. */
const bitsOf = (array: Typed, from: number, end: number): number => {
  let any = 0
  for (let i = from; i < end; i++) any |= array[i]!
  return 32 - Math.clz32(any)
}

/** None where all are +0, else all. */
const floatBitsOf = (array: Typed, own: Int32Array, from: number, end: number): number => {
  const each = array.BYTES_PER_ELEMENT >>> 2
  for (let word = from * each; word < end * each; word++) if (own[word] !== 0) return 32
  return 0
}

/** Whether two arrays of a kind hold the same bits: by words, since a loop over one kind of array is fast. */
const isEqual = (a: Typed, b: Typed, own: Int32Array, other: Int32Array, from: number, end: number): boolean => {
  const bytes = a.BYTES_PER_ELEMENT
  const lastWord = (end * bytes) >>> 2
  for (let word = (from * bytes) >>> 2; word < lastWord; word++) if (own[word] !== other[word]) return false
  for (let i = (lastWord * 4) / bytes; i < end; i++) if (a[i] !== b[i]) return false
  return true
}

/** The whole words of an array. Requires that it begins with one. */
const wordsOf = (array: Typed): Int32Array =>
  array instanceof Int32Array ? array : new Int32Array(array.buffer, array.byteOffset, array.byteLength >>> 2)
