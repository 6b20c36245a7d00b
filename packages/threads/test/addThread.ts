import { giveWay } from "@uniprefill/threads/giveWay"
import { serveThread } from "@uniprefill/threads/serveThread"

giveWay(5)

/** Adds to `base`, after so many ms of work; throws at 13, ends its thread at 99. */
serveThread<{ base: number }, { add: number; millis?: number }, number>(({ base }) => ({ add, millis = 0 }) => {
  const end = performance.now() + millis
  while (performance.now() < end);
  if (add === 13) throw new Error("unlucky")
  if (add === 99) process.exit(1)
  return { value: base + add, transfer: [] }
})
