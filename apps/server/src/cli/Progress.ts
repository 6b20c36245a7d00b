import { Effect } from "effect"

const clearLine = "\r\u001b[2K"

/** Shows a line on the terminal while an effect runs; nothing where stderr is no terminal. */
export const showing = <A, E, R>(line: string, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> => {
  if (!process.stderr.isTTY) return effect
  const write = (text: string) => Effect.sync(() => void process.stderr.write(text))
  return Effect.acquireUseRelease(
    write(line),
    () => effect,
    () => write(clearLine),
  )
}
