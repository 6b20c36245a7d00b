import { Effect, FileSystem, Option, Stream } from "effect"
import { parseJson, platformFault } from "./JsonFile.ts"
import { ModelError } from "./ModelError.ts"

const maxHeaderBytes = 100_000_000

/** Names of all tensors in *.safetensors files, from their headers. Fails with `Unreadable` or `InvalidJson`. */
export const tensorsOf = (files: ReadonlyArray<string>) =>
  Effect.map(Effect.forEach(files, namesIn), (names) => names.flat())

/** A file that ends within its header has none here: the runner, which reads all of it, says so. */
const namesIn = Effect.fnUntraced(function* (file: string) {
  const header = yield* readHeader(file).pipe(
    Effect.mapError(
      (error) =>
        new ModelError({ reason: "Unreadable", file, field: null, detail: `its header: ${platformFault(error)}` }),
    ),
  )
  if (header === "") return []
  const json = yield* parseJson(file, header)
  return Object.keys(json as object).filter((name) => name !== "__metadata__")
})

/** The JSON after the 8 bytes that hold its length. */
const readHeader = Effect.fnUntraced(function* (file: string) {
  const fileSystem = yield* FileSystem.FileSystem
  const { size } = yield* fileSystem.stat(file)
  const opened = yield* Effect.scoped(Effect.flatMap(fileSystem.open(file), (handle) => handle.readAlloc(8)))
  if (Option.isNone(opened) || opened.value.length < 8) return ""
  const length = new DataView(opened.value.buffer, opened.value.byteOffset, 8).getBigUint64(0, true)
  if (length > maxHeaderBytes || Number(length) + 8 > Number(size)) return ""
  return yield* fileSystem
    .stream(file, { offset: 8, bytesToRead: Number(length) })
    .pipe(Stream.decodeText, Stream.mkString)
})
