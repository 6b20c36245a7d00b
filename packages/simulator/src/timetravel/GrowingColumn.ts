type Numbers = Float64Array | Float32Array | Uint32Array | Int32Array | Uint16Array | Uint8Array

/** A typed array to append to. */
export class GrowingColumn<A extends Numbers> {
  length = 0
  private data: A
  private readonly make: (length: number) => A

  constructor(make: (length: number) => A) {
    this.make = make
    this.data = make(1024)
  }

  push(value: number): void {
    if (this.length === this.data.length) {
      const larger = this.make(this.length * 2)
      larger.set(this.data)
      this.data = larger
    }
    this.data[this.length++] = value
  }

  /** Requires a place that was appended. */
  set(place: number, value: number): void {
    this.data[place] = value
  }

  /** What was appended, without a copy of it, in an array that has more room: the column is empty afterwards. */
  take(): A {
    const { data, length } = this
    this.length = 0
    this.data = this.make(1024)
    return data.subarray(0, length) as A
  }
}

export const float64s = (): GrowingColumn<Float64Array> => new GrowingColumn((length) => new Float64Array(length))
export const uint32s = (): GrowingColumn<Uint32Array> => new GrowingColumn((length) => new Uint32Array(length))
export const uint16s = (): GrowingColumn<Uint16Array> => new GrowingColumn((length) => new Uint16Array(length))
export const uint8s = (): GrowingColumn<Uint8Array> => new GrowingColumn((length) => new Uint8Array(length))
