/** Keys that differ in these bits alone stand side by side. */
const neighbours = 15

/**
 * A map from integers of at least 0 to small integers of at least 0: open addressing, linear probing, at most half full.
 * Made for keys that come in runs, as the blocks of a prompt do: a run's places are close together.
 */
export class IntMap {
  size = 0
  /** Key + 1; 0 where nothing is. */
  private keys: Int32Array
  private values: Uint16Array
  private shift: number

  constructor(places = 1024) {
    const bits = Math.max(4, Math.ceil(Math.log2(places)))
    this.keys = new Int32Array(2 ** bits)
    this.values = new Uint16Array(2 ** bits)
    this.shift = 32 - bits
  }

  /** −1 for a key that was not set. */
  get(key: number): number {
    const at = this.find(key)
    return this.keys[at] === 0 ? -1 : this.values[at]!
  }

  set(key: number, value: number): void {
    const at = this.find(key)
    if (this.keys[at] === 0) {
      this.keys[at] = key + 1
      this.size++
    }
    this.values[at] = value
    if (this.size * 2 > this.keys.length) this.grow()
  }

  clear(): void {
    this.keys.fill(0)
    this.size = 0
  }

  /** Where the key is, or would be. */
  private find(key: number): number {
    const { keys } = this
    let at = ((Math.imul(key >>> 4, 0x9e3779b1) >>> this.shift) & ~neighbours) | (key & neighbours)
    while (keys[at] !== 0 && keys[at] !== key + 1) at = (at + 1) & (keys.length - 1)
    return at
  }

  private grow(): void {
    const { keys, values } = this
    const larger = new IntMap(keys.length * 2)
    for (let at = 0; at < keys.length; at++) if (keys[at] !== 0) larger.set(keys[at]! - 1, values[at]!)
    this.keys = larger.keys
    this.values = larger.values
    this.shift = larger.shift
  }
}
