import { Known, PackedPieces, type Typed } from "./PackedPieces.ts"

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
 * 4. The class that most objects are of may say itself what its content is: see {@link Copier}.
 * 5. Of a {@link List}, the array that it has is not looked at beyond its length.
 * 6. Content that equals that of the snapshot before is shared with it, so a snapshot costs the memory of what changed. Where
 *    it lies is noted for all objects in some snapshots, and for those that changed in the ones that follow:
 *
 *        table ◀─ changes ◀─ changes ◀─ …   table ◀─ changes ◀─ …
 */
export class ObjectGraph {
  private readonly root: object
  private readonly fixed: ReadonlySet<object>
  private readonly most: Copier
  private readonly isList: IsList | undefined
  /** Content of one object of that class. */
  private readonly scratch: Array<unknown> = []
  private readonly keysOfClass = new Map<object, ReadonlyArray<string> | null>()
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
  private readonly pieces = new PackedPieces()
  /** Of typed arrays and lists. */
  private readonly known: Array<Known | null> = []
  /** Numbers of the objects whose content this take saves, and of those that are gone. */
  private readonly changed: Array<number> = []
  private table: Places | null = null
  private changes: Array<Places> = []
  /** Places noted since the table. */
  private noted = 0
  /** Of each number the restore that has put it back last. */
  private restored = new Int32Array(0)
  private restores = 0

  /** `most`: of the class that most objects are of. */
  constructor(root: object, fixed: Iterable<object>, most: Copier = copiesNone, isList?: IsList) {
    this.root = root
    this.fixed = new Set(fixed)
    this.most = most
    this.isList = isList
  }

  /** Cost: one visit of every object and element. */
  take(): Snapshot {
    const { open, objects, changed } = this
    if (this.isSealed) throw new Error("nothing is taken of a sealed graph")
    this.takes++
    this.pool = []
    this.pools.push(this.pool)
    this.pieces.begin()
    changed.length = 0
    this.enter(this.numberOf(this.root))
    for (let number = open.pop(); number !== undefined; number = open.pop()) this.save(number, objects[number]!)
    this.forgetUnreached()
    this.noted += changed.length
    // Going through the changes costs no more than going through the table.
    if (this.table === null || this.noted > this.numbers.size) {
      this.table = this.placesOf(Int32Array.from(objects.keys()))
      this.changes = []
      this.noted = 0
    } else this.changes.push(this.placesOf(Int32Array.from(changed)))
    return { table: this.table, changes: this.changes, count: this.changes.length, size: objects.length }
  }

  /** Puts everything back as it was when `snapshot` was taken of this graph. */
  restore({ table, changes, count, size }: Snapshot): void {
    const { pools } = this
    // From the last change to the table: what lies where, of each number the newest.
    if (this.restored.length < size) this.restored = new Int32Array(2 * size)
    const { restored: seen } = this
    const restore = ++this.restores
    for (let c = count; c >= 0; c--) {
      const { numbers, objects, places } = c === 0 ? table : changes[c - 1]!
      for (let i = 0; i < numbers.length; i++) {
        const number = numbers[i]!
        if (seen[number] === restore) continue
        seen[number] = restore
        if (places[2 * i]! !== -1) this.putBack(objects[i]!, pools[places[2 * i]!]!, places[2 * i + 1]!)
      }
    }
  }

  private placesOf(numbers: Int32Array): Places {
    const { objects, poolOf, placeOf } = this
    const places = new Int32Array(2 * numbers.length)
    const of = new Array<object | null>(numbers.length)
    for (let i = 0; i < numbers.length; i++) {
      const number = numbers[i]!
      of[i] = objects[number]!
      places[2 * i] = poolOf[number]!
      places[2 * i + 1] = placeOf[number]!
    }
    return { numbers, objects: of, places }
  }

  /** Takes nothing any more, and forgets what only taking needs. */
  seal(): void {
    this.numbers.clear()
    for (const list of [this.objects, this.spare, this.poolOf, this.placeOf, this.references, this.reached, this.known])
      list.length = 0
    this.pieces.end()
    this.changed.length = 0
    this.table = null
    this.changes = []
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
    this.known[number] = null
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
      this.known[number] = null
      this.poolOf[number] = -1
      this.changed.push(number)
      this.spare.push(number)
    }
  }

  /** Saves an object's content unless that saved before is equal; what it refers to is entered. */
  private save(number: number, object: object): void {
    if (Array.isArray(object)) return this.saveValues(number, object)
    if (isTyped(object)) return this.savePieces(number, object)
    if (object instanceof Map) return this.saveValues(number, [...object].flat())
    if (object instanceof Set) return this.saveValues(number, [...object])
    const { most, scratch } = this
    if (most.read(object, scratch)) return this.saveFields(number, scratch)
    if (this.isList?.(object)) return this.saveList(number, object)
    const keys = this.keysOf(object)
    if (keys === null) return this.enterAll(object)
    const fields = object as Readonly<Record<string, unknown>>
    scratch.length = keys.length
    for (let i = 0; i < keys.length; i++) scratch[i] = fields[keys[i]!]
    this.saveFields(number, scratch)
  }

  private saveFields(number: number, values: ReadonlyArray<unknown>): void {
    const isNew = this.poolOf[number] === -1
    const before = isNew ? this.pool : this.pools[this.poolOf[number]!]!
    const place = this.placeOf[number]!
    const references = this.references[number]!
    let equal = !isNew
    for (let i = 0; i < values.length; i++) {
      const value = values[i]
      const isSame = !isNew && Object.is(value, before[place + i])
      if (!isSame) equal = false
      if (typeof value !== "object" || value === null) continue
      if (!isSame) references[i] = this.numberOf(value)
      this.enter(references[i]!)
    }
    if (equal) return
    this.begin(number)
    const { pool } = this
    for (let i = 0; i < values.length; i++) pool.push(values[i])
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

  /** One value: where the pieces lie. */
  private savePieces(number: number, array: Typed): void {
    const known = (this.known[number] ??= new Known())
    const before = known.places
    const places = this.pieces.save(array, array.length, known)
    if (this.poolOf[number] !== -1 && places === before) return
    this.begin(number)
    this.pool.push(places)
  }

  /** Its array, its length, and where the pieces lie. */
  private saveList(number: number, { data, length }: List): void {
    const known = (this.known[number] ??= new Known())
    const places = this.pieces.save(data, length, known)
    if (this.poolOf[number] !== -1) {
      const before = this.pools[this.poolOf[number]!]!
      const place = this.placeOf[number]!
      if (before[place] === data && before[place + 1] === length && before[place + 2] === places) return
    }
    this.begin(number)
    this.pool.push(data, length, places)
  }

  private enterAll(object: object): void {
    for (const value of Object.values(object)) {
      if (typeof value === "object" && value !== null) this.enter(this.numberOf(value as object))
    }
  }

  private begin(number: number): void {
    this.poolOf[number] = this.pools.length - 1
    this.placeOf[number] = this.pool.length
    this.changed.push(number)
  }

  private putBack(object: object, pool: ReadonlyArray<unknown>, place: number): void {
    if (this.most.write(object, pool, place)) return
    if (Array.isArray(object)) {
      const length = pool[place] as number
      object.length = length
      for (let i = 0; i < length; i++) object[i] = pool[place + 1 + i]
    } else if (isTyped(object)) this.pieces.putBack(object, object.length, pool[place] as Int32Array)
    else if (object instanceof Map) {
      object.clear()
      const end = place + 1 + (pool[place] as number)
      for (let at = place + 1; at < end; at += 2) object.set(pool[at], pool[at + 1])
    } else if (object instanceof Set) {
      object.clear()
      const end = place + 1 + (pool[place] as number)
      for (let at = place + 1; at < end; at++) object.add(pool[at])
    } else if (this.isList?.(object)) {
      object.data = pool[place] as Int32Array
      object.length = pool[place + 1] as number
      this.pieces.putBack(object.data, object.length, pool[place + 2] as Int32Array)
    } else {
      const fields = object as Record<string, unknown>
      const keys = this.keysOf(object)!
      for (let i = 0; i < keys.length; i++) fields[keys[i]!] = pool[place + i]
    }
  }

  /** Names of an object's fields, null for a frozen one: the same for all objects of a class, looked up once. */
  private keysOf(object: object): ReadonlyArray<string> | null {
    const { keysOfClass } = this
    const prototype = Object.getPrototypeOf(object) as object | null
    const known = prototype === null ? undefined : keysOfClass.get(prototype)
    if (known !== undefined) return known
    const keys = Object.isFrozen(object) ? null : Object.keys(object)
    if (prototype !== null && prototype !== Object.prototype) keysOfClass.set(prototype, keys)
    return keys
  }
}

/**
 * Reads and writes the objects of one class field by field, which takes an eighth of what names of fields take. What it leaves
 * out is neither saved nor followed, and must never change.
 */
export interface Copier {
  /** Makes `values` the content of an object of the class, always as many; false for any other object. */
  readonly read: (object: object, values: Array<unknown>) => boolean
  /** Gives an object of the class the content that lies in `values` from `at` on; false for any other object. */
  readonly write: (object: object, values: ReadonlyArray<unknown>, at: number) => boolean
}

/** A list that may have more room than it uses. */
export interface List {
  data: Int32Array
  length: number
}

/** Tells the lists among the objects. */
export type IsList = (object: object) => object is List

const copiesNone: Copier = { read: () => false, write: () => false }

/** Where the content of objects lies. */
interface Places {
  readonly numbers: Int32Array
  /** Null where a number is free. */
  readonly objects: ReadonlyArray<object | null>
  /** `[pool, place]` of each, −1 for what has no content. */
  readonly places: Int32Array
}

/** What a graph held: references into that graph's saved content. */
export interface Snapshot {
  readonly table: Places
  /** Of this snapshot the first `count`, in order: later ones follow. */
  readonly changes: ReadonlyArray<Places>
  readonly count: number
  /** Numbers that are in use, or were, from 0 on. */
  readonly size: number
}

const isTyped = (object: object): object is Typed => ArrayBuffer.isView(object)
