import { createWriteStream } from "node:fs"
import { readFile } from "node:fs/promises"
import { finished } from "node:stream/promises"
import { createGzip, gunzipSync } from "node:zlib"
import { Effect, Schema, type Scope } from "effect"
import { decodeRecording, encodeLine, type Recording } from "./RecordingCodec.ts"
import type { RecordedEvent, RecordingHeader } from "./Recording.ts"

/** A `*.recording.jsonl.gz` that cannot be written or read. */
export class RecordingFileError extends Schema.TaggedError<RecordingFileError>()("RecordingFileError", {
  reason: Schema.Literals(["Unwritable", "Unreadable", "Malformed"]),
  file: Schema.String,
  detail: Schema.String,
}) {
  override get message(): string {
    return `${this.file}: ${this.detail}`
  }
}

export interface RecordingWriter {
  readonly write: (line: RecordingHeader | RecordedEvent) => void
  /** Set once the disk has refused: what is written from then on is lost. */
  readonly failure: () => RecordingFileError | null
}

/** Bytes that may wait for the disk; recording ends beyond them, serving goes on. */
const maxUnwrittenBytes = 64 * 1024 * 1024

/**
 * Opens a file for a recording and completes it when the scope closes. Writing never waits: lines are compressed and written
 * behind the loop's back.
 */
export const openRecording = (file: string): Effect.Effect<RecordingWriter, RecordingFileError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.callback<RecordingWriter & { readonly close: Effect.Effect<void> }, RecordingFileError>((resume) => {
      const target = createWriteStream(file)
      const gzip = createGzip()
      let failure: RecordingFileError | null = null
      const fail = (cause: Error) => {
        failure ??= new RecordingFileError({ reason: "Unwritable", file, detail: cause.message })
        resume(Effect.fail(failure))
      }
      target.on("error", fail)
      gzip.on("error", fail)
      gzip.pipe(target)
      const write = (line: RecordingHeader | RecordedEvent) => {
        if (failure !== null) return
        gzip.write(`${encodeLine(line)}\n`)
        if (gzip.writableLength > maxUnwrittenBytes) {
          gzip.end()
          fail(new Error(`more than ${maxUnwrittenBytes} bytes wait for the disk`))
        }
      }
      const close = Effect.promise(async () => {
        gzip.end()
        await finished(target).catch(() => {})
      }).pipe(
        Effect.andThen(
          Effect.suspend(() =>
            failure === null ? Effect.void : Effect.logError("The recording is incomplete", failure),
          ),
        ),
      )
      target.on("open", () => resume(Effect.succeed({ write, failure: () => failure, close })))
    }),
    ({ close }) => close,
  )

/** Reads a whole recording. Fails with `Unreadable` or `Malformed`, which names the line. */
export const readRecording = (file: string): Effect.Effect<Recording, RecordingFileError> =>
  Effect.gen(function* () {
    const fail = (reason: "Unreadable" | "Malformed") => (cause: unknown) =>
      new RecordingFileError({ reason, file, detail: cause instanceof Error ? cause.message : String(cause) })
    const bytes = yield* Effect.tryPromise({ try: () => readFile(file), catch: fail("Unreadable") })
    return yield* Effect.try({
      try: () => decodeRecording(gunzipSync(bytes).toString("utf8")),
      catch: fail("Malformed"),
    })
  })
