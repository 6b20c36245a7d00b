/**
 * `length` token ids below `vocab`, drawn from `seed`; some runs repeat, so that attention has something to find. The first
 * `shared` are the same for every seed.
 */
export const promptOf = (length: number, vocab: number, seed: number, shared = 0): Int32Array => {
  const prompt = draw(length, vocab, seed)
  prompt.set(draw(Math.min(shared, length), vocab, 0))
  return prompt
}

const draw = (length: number, vocab: number, seed: number): Int32Array => {
  let state = (seed ^ 0x2545f491) >>> 0
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state >>> 8
  }
  const prompt = new Int32Array(length)
  for (let i = 0; i < length; i++) {
    prompt[i] = i > 20 && next() % 4 === 0 ? prompt[i - 1 - (next() % 20)]! : next() % vocab
  }
  return prompt
}
