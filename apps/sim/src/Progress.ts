/** A progress bar on standard error, where that is a terminal; silent otherwise. */
export interface Progress {
  readonly update: (done: number, total: number) => void
  readonly end: () => void
}

const silent: Progress = { update: () => {}, end: () => {} }

/** Shown from this on, and redrawn as often. */
const interval = 200

export const startProgress = (label: string, things: string): Progress => {
  if (!process.stderr.isTTY) return silent
  let drawn = performance.now()
  let shown = false
  return {
    update: (done, total) => {
      if (performance.now() - drawn < interval) return
      drawn = performance.now()
      shown = true
      const share = total === 0 ? 1 : done / total
      const bar = "█".repeat(Math.round(share * 24)).padEnd(24, "·")
      process.stderr.write(`\r\u001b[2K${label} ${bar} ${(share * 100).toFixed(0)}% (${done} of ${total} ${things})`)
    },
    end: () => {
      if (shown) process.stderr.write("\r\u001b[2K")
    },
  }
}
