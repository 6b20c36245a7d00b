import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"

/** A tensor in bf16, row after row. */
export interface Bf16Tensor {
  readonly shape: ReadonlyArray<number>
  readonly values: Uint16Array
}

/** Writes config.json and model.safetensors of a Hugging Face directory. */
export const writeModelFiles = (directory: string, config: object, tensors: ReadonlyMap<string, Bf16Tensor>): void => {
  mkdirSync(directory, { recursive: true })
  writeFileSync(join(directory, "config.json"), `${JSON.stringify(config, null, 1)}\n`)
  // Without a format transformers takes a file for none of its own.
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } }
  let offset = 0
  for (const [name, { shape, values }] of tensors) {
    header[name] = { dtype: "BF16", shape, data_offsets: [offset, offset + values.byteLength] }
    offset += values.byteLength
  }
  const text = Buffer.from(JSON.stringify(header))
  const padded = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, " ")])
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(padded.length))
  const data = [...tensors.values()].map(({ values }) => Buffer.from(values.buffer, 0, values.byteLength))
  writeFileSync(join(directory, "model.safetensors"), Buffer.concat([length, padded, ...data]))
}

/** A tensor of `shape` whose elements `next` draws, rounded to bf16. */
export const drawTensor = (shape: ReadonlyArray<number>, next: () => number): Bf16Tensor => {
  const values = new Uint16Array(shape.reduce((product, size) => product * size, 1))
  for (let i = 0; i < values.length; i++) values[i] = bf16(next())
  return { shape, values }
}

const word = new Float32Array(1)
const bits = new Uint32Array(word.buffer)

/** Rounded to nearest even. */
const bf16 = (value: number): number => {
  word[0] = value
  return ((bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) >>> 16) & 0xffff
}

/** Standard normal numbers drawn from `seed` (Box–Muller over a 32-bit generator). */
export const normalNumbers = (seed: number): (() => number) => {
  let state = seed >>> 0 || 1
  const uniform = () => {
    state ^= state << 13
    state >>>= 0
    state ^= state >>> 17
    state ^= state << 5
    state >>>= 0
    return (state + 0.5) / 0x1_0000_0000
  }
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform())
}
