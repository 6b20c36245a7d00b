/** The buffers of all typed arrays in a value, each once: given away with it, not copied. */
export const transferables = (value: unknown): Array<ArrayBuffer> => {
  const buffers = new Set<ArrayBuffer>()
  const visit = (one: unknown): void => {
    if (typeof one !== "object" || one === null || one instanceof Blob) return
    if (ArrayBuffer.isView(one)) buffers.add(one.buffer as ArrayBuffer)
    else for (const inner of Object.values(one)) visit(inner)
  }
  visit(value)
  return [...buffers]
}
