/**
 * Everything that can be reached from one object, saved and put back **in place**: every object keeps its identity and gets its
 * earlier content again. So closures stay valid, and nothing that is saved has to know of it.
 *
 *     take ─▶ Snapshot ─▶ … the graph changes, grows, loses parts … ─▶ restore ─▶ as it was
 *
 * 1. Content is what `Object.keys` names, the elements of arrays, typed arrays, maps and sets. Functions are not entered: a
 *    closure must hold no state in variables of its own.
 * 2. `#private` fields are neither saved nor put back: they may hold only what can be computed again and is checked before use.
 * 3. What is frozen, or among the objects named as fixed, is taken as it is, and nothing behind a fixed object is looked at.
 * 4. Content that equals that of the snapshot before is shared with it, so a snapshot costs the memory of what changed.
 */
export class ObjectGraph {
  private readonly root: object
  private readonly fixed: ReadonlySet<object>
  /** A number for each object that the last take reached, which is its place in the arrays below. */
  private readonly numbers = new Map<object, number>()
  private readonly objects: Array<object | null> = []
  private readonly spare: Array<number> = []
  /** Where its content was saved last: `pools[poolOf]` from `placeOf` on; −1 for what was not saved yet. */
  private readonly poolOf: Array<number> = []
  private readonly placeOf: Array<number> = []
  /** The numbers of the objects in that content: what did not change is followed without looking it up. */
  private readonly references: Array<Array<number>> = []
  /** The take in which it was reached last. */
  private readonly reached: Array<number> = []
  private takes = 0
  private isSealed = false
  /** Numbers of objects that are still to be visited. */
  private readonly open: Array<number> = []
  /** Saved content, a pool for each take: one long array costs the collector less than many short ones. */
  private readonly pools: Array<ReadonlyArray<unknown>> = []
  private pool: Array<unknown> = []

  constructor(root: object, fixed: Iterable<object>) {
    this.root = root
    this.fixed = new Set(fixed)
  }

  /** Cost: one visit of every object and element. */
  take(): Snapshot {
    const { open, objects, poolOf, placeOf, numbers } = this
    if (this.isSealed) throw new Error("nothing is taken of a sealed graph")
    this.takes++
    this.pool = []
    this.pools.push(this.pool)
    const order: Array<object> = []
    this.enter(this.numberOf(this.root))
    let places = new Int32Array(2 * numbers.size + 4096)
    let count = 0
    for (let number = open.pop(); number !== undefined; number = open.pop()) {
      const object = objects[number]!
      this.save(number, object)
      if (poolOf[number] === -1) continue
      if (2 * count === places.length) {
        const larger = new Int32Array(2 * places.length)
        larger.set(places)
        places = larger
      }
      places[2 * count] = poolOf[number]!
      places[2 * count + 1] = placeOf[number]!
      count++
      order.push(object)
    }
    this.forgetUnreached()
    return { objects: order, places: places.slice(0, 2 * count) }
  }

  /** Puts everything back as it was when `snapshot` was taken of this graph. */
  restore({ objects, places }: Snapshot): void {
    const { pools } = this
    for (let i = 0; i < objects.length; i++) putBack(objects[i]!, pools[places[2 * i]!]!, places[2 * i + 1]!)
  }

  /** Takes nothing any more, and forgets what only taking needs. */
  seal(): void {
    this.numbers.clear()
    for (const list of [this.objects, this.spare, this.poolOf, this.placeOf, this.references, this.reached])
      list.length = 0
    this.pool = []
    this.isSealed = true
  }

  /** An object's number, a new one for an object that was not reached before; −1 for a fixed one. */
  private numberOf(object: object): number {
    const known = this.numbers.get(object)
    if (known !== undefined) return known
    if (this.fixed.has(object)) return -1
    const number = this.spare.pop() ?? this.objects.length
    this.numbers.set(object, number)
    this.objects[number] = object
    this.poolOf[number] = -1
    this.placeOf[number] = -1
    this.references[number] = []
    this.reached[number] = 0
    return number
  }

  private enter(number: number): void {
    if (number < 0 || this.reached[number] === this.takes) return
    this.reached[number] = this.takes
    this.open.push(number)
  }

  private forgetUnreached(): void {
    const { objects, reached, takes } = this
    for (let number = 0; number < objects.length; number++) {
      const object = objects[number]
      if (reached[number] === takes || object === null) continue
      this.numbers.delete(object!)
      objects[number] = null
      this.spare.push(number)
    }
  }

  /** Saves an object's content unless that saved before is equal; what it refers to is entered. */
  private save(number: number, object: object): void {
    if (Array.isArray(object)) return this.saveValues(number, object)
    if (isTyped(object)) return this.savePieces(number, object)
    if (object instanceof Map) return this.saveValues(number, [...object].flat())
    if (object instanceof Set) return this.saveValues(number, [...object])
    const keys = keysOf(object)
    if (keys === null) return this.enterAll(object)
    const fields = object as Readonly<Record<string, unknown>>
    const isNew = this.poolOf[number] === -1
    const before = isNew ? this.pool : this.pools[this.poolOf[number]!]!
    const place = this.placeOf[number]!
    const references = this.references[number]!
    let equal = !isNew
    for (let i = 0; i < keys.length; i++) {
      const value = fields[keys[i]!]
      const isSame = !isNew && Object.is(value, before[place + i])
      if (!isSame) equal = false
      if (typeof value !== "object" || value === null) continue
      if (!isSame) references[i] = this.numberOf(value)
      this.enter(references[i]!)
    }
    if (equal) return
    this.begin(number)
    const { pool } = this
    for (let i = 0; i < keys.length; i++) pool.push(fields[keys[i]!])
  }

  /** The number of values, then the values. */
  private saveValues(number: number, values: ReadonlyArray<unknown>): void {
    const isNew = this.poolOf[number] === -1
    const before = isNew ? this.pool : this.pools[this.poolOf[number]!]!
    const place = this.placeOf[number]!
    const length = isNew ? 0 : (before[place] as number)
    const references = this.references[number]!
    let equal = !isNew && length === values.length
    for (let i = 0; i < values.length; i++) {
      const value = values[i]
      const isSame = i < length && Object.is(value, before[place + 1 + i])
      if (!isSame) equal = false
      if (typeof value !== "object" || value === null) continue
      if (!isSame) references[i] = this.numberOf(value)
      this.enter(references[i]!)
    }
    if (equal) return
    this.begin(number)
    const { pool } = this
    pool.push(values.length)
    for (let i = 0; i < values.length; i++) pool.push(values[i])
  }

  /** One value: the pieces, of which those that did not change are shared. */
  private savePieces(number: number, array: Typed): void {
    const isNew = this.poolOf[number] === -1
    const before = isNew ? none : (this.pools[this.poolOf[number]!]![this.placeOf[number]!] as ReadonlyArray<Typed>)
    const pieces = piecesOf(array, before)
    if (pieces === before) return
    this.begin(number)
    this.pool.push(pieces)
  }

  private enterAll(object: object): void {
    for (const value of Object.values(object)) {
      if (typeof value === "object" && value !== null) this.enter(this.numberOf(value as object))
    }
  }

  private begin(number: number): void {
    this.poolOf[number] = this.pools.length - 1
    this.placeOf[number] = this.pool.length
  }
}

/** What a graph held: references into that graph's saved content. */
export interface Snapshot {
  readonly objects: ReadonlyArray<object>
  /** `[pool, place]` of each object's content. */
  readonly places: Int32Array
}

type Typed = Int32Array | Uint32Array | Float64Array | Float32Array | Uint16Array | Uint8Array

const none: ReadonlyArray<Typed> = []

/** Elements of a typed array that are compared and shared as one. */
const pieceLength = 1024

const isTyped = (object: object): object is Typed => ArrayBuffer.isView(object)

const piecesOf = (array: Typed, before: ReadonlyArray<Typed>): ReadonlyArray<Typed> => {
  const pieces: Array<Typed> = []
  let equal = before.length === Math.ceil(array.length / pieceLength)
  for (let p = 0, from = 0; from < array.length; p++, from += pieceLength) {
    const end = Math.min(from + pieceLength, array.length)
    const old = before[p]
    if (old !== undefined && old.length === end - from && equalBytes(array, from, old)) pieces.push(old)
    else {
      pieces.push(array.slice(from, end))
      equal = false
    }
  }
  return equal && before !== none ? before : pieces
}

/** Whether `array` from `from` on is `piece`: by words where it can be, since a loop over one kind of array is fast. */
const equalBytes = (array: Typed, from: number, piece: Typed): boolean => {
  const bytes = array.BYTES_PER_ELEMENT
  const start = array.byteOffset + from * bytes
  if ((piece.byteLength & 3) !== 0 || (start & 3) !== 0)
    return piece.every((value, i) => Object.is(value, array[from + i]))
  const words = piece.byteLength >>> 2
  return equalWords(new Int32Array(array.buffer, start, words), new Int32Array(piece.buffer, piece.byteOffset, words))
}

const equalWords = (a: Int32Array, b: Int32Array): boolean => {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false
  return true
}

const putBack = (object: object, pool: ReadonlyArray<unknown>, place: number): void => {
  if (Array.isArray(object)) {
    const length = pool[place] as number
    object.length = length
    for (let i = 0; i < length; i++) object[i] = pool[place + 1 + i]
  } else if (isTyped(object)) {
    const pieces = pool[place] as ReadonlyArray<Typed>
    for (let p = 0; p < pieces.length; p++) object.set(pieces[p]!, p * pieceLength)
  } else if (object instanceof Map) {
    object.clear()
    const end = place + 1 + (pool[place] as number)
    for (let at = place + 1; at < end; at += 2) object.set(pool[at], pool[at + 1])
  } else if (object instanceof Set) {
    object.clear()
    const end = place + 1 + (pool[place] as number)
    for (let at = place + 1; at < end; at++) object.add(pool[at])
  } else {
    const fields = object as Record<string, unknown>
    const keys = keysOf(object)!
    for (let i = 0; i < keys.length; i++) fields[keys[i]!] = pool[place + i]
  }
}

const keysOfClass = new Map<object, ReadonlyArray<string> | null>()

/** Names of an object's fields, null for a frozen one: the same for all objects of a class, looked up once. */
const keysOf = (object: object): ReadonlyArray<string> | null => {
  const prototype = Object.getPrototypeOf(object) as object | null
  const known = prototype === null ? undefined : keysOfClass.get(prototype)
  if (known !== undefined) return known
  const keys = Object.isFrozen(object) ? null : Object.keys(object)
  if (prototype !== null && prototype !== Object.prototype) keysOfClass.set(prototype, keys)
  return keys
}
