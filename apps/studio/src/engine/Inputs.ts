import slice from "@uniprefill/simulator/traces/mooncake-conversation-slice.jsonl?raw"
import type { ReadText } from "@uniprefill/simulator/scenario/Build"
import { ScenarioError } from "@uniprefill/simulator/scenario/ScenarioFields"

/** Larger text is refused: as one string it would not fit beside what is made of it. */
export const maxTextBytes = 400_000_000

/** The trace that is part of the page. */
export const builtInTrace = "mooncake-conversation-slice"

const shipped: ReadonlyMap<string, string> = new Map([[builtInTrace, slice]])

/** The text of a file, unpacked where it is packed. */
export const textOf = async (name: string, file: Blob): Promise<string> => {
  const [first, second] = new Uint8Array(await file.slice(0, 2).arrayBuffer())
  const isPacked = first === 0x1f && second === 0x8b
  const stream = isPacked ? file.stream().pipeThrough(unpacking()) : file.stream()
  const decoder = new TextDecoder()
  let text = ""
  let bytes = 0
  try {
    for await (const chunk of stream) {
      bytes += chunk.byteLength
      if (bytes > maxTextBytes) throw new ScenarioError(`${name}: more than ${maxTextBytes} bytes of text`)
      text += decoder.decode(chunk, { stream: true })
    }
  } catch (cause) {
    if (cause instanceof ScenarioError) throw cause
    throw new ScenarioError(`${name}: cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`)
  }
  return text + decoder.decode()
}

const unpacking = (): ReadableWritablePair<Uint8Array, Uint8Array> =>
  new DecompressionStream("gzip") as unknown as ReadableWritablePair<Uint8Array, Uint8Array>

/** Looks up the files that a scenario names among those that the page was given. */
export const readerOf = async (files: Readonly<Record<string, Blob>>): Promise<ReadText> => {
  const texts = new Map(shipped)
  for (const [name, file] of Object.entries(files)) texts.set(name, await textOf(name, file))
  return (name) => {
    const text = texts.get(name)
    if (text !== undefined) return text
    throw new ScenarioError(`${name} is not on this page: drop the file here`)
  }
}
