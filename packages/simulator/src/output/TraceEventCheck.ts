/**
 * Whether a value is a file of the Trace Event format as its readers need it; the first fault as text, or null.
 *
 * Checked: the object form; required fields by phase; slices of a track do not overlap; every step and end of a flow comes
 * after its start, on a track that has a slice there, which stands before it in the file; counters hold numbers.
 */
export const traceEventFault = (value: unknown): string | null => {
  const events = (value as { readonly traceEvents?: unknown } | null)?.traceEvents
  if (!Array.isArray(events)) return "traceEvents is not a list"
  const slices = new Map<string, Array<readonly [start: number, end: number, index: number]>>()
  const flows = new Map<unknown, number>()
  const bound: Array<{ readonly index: number; readonly track: string; readonly ts: number }> = []
  for (const [i, event] of (events as ReadonlyArray<Record<string, unknown>>).entries()) {
    const { ph, name, pid, tid, ts, dur, id, args } = event
    const fault = (text: string) => `traceEvents.${i}: ${text}`
    if (typeof name !== "string" || name === "") return fault("no name")
    if (!Number.isInteger(pid) || !Number.isInteger(tid)) return fault("pid and tid are not integers")
    if (typeof ts !== "number" || !(ts >= 0)) return fault(`ts is ${JSON.stringify(ts)}`)
    const track = `${String(pid)}/${String(tid)}`
    switch (ph) {
      case "M":
        if (typeof (args as { name?: unknown } | undefined)?.name !== "string")
          return fault("metadata without args.name")
        break
      case "X": {
        if (typeof dur !== "number" || !(dur >= 0)) return fault(`dur is ${JSON.stringify(dur)}`)
        const list = slices.get(track) ?? []
        list.push([ts, ts + dur, i])
        slices.set(track, list)
        break
      }
      case "C":
        if (typeof args !== "object" || args === null || Object.values(args).some((one) => typeof one !== "number")) {
          return fault("a counter holds something that is not a number")
        }
        break
      case "s":
        if (id === undefined) return fault("a flow without an id")
        if (flows.has(id)) return fault(`flow ${JSON.stringify(id)} starts twice`)
        flows.set(id, ts)
        bound.push({ index: i, track, ts })
        break
      case "t":
      case "f": {
        const started = flows.get(id)
        if (started === undefined) return fault(`flow ${String(id)} goes on before it starts`)
        if (ts < started) return fault(`flow ${String(id)} goes back in time`)
        bound.push({ index: i, track, ts })
        break
      }
      default:
        return fault(`phase ${JSON.stringify(ph)} is not known`)
    }
  }
  for (const [track, list] of slices) {
    list.sort((a, b) => a[0] - b[0])
    for (let i = 1; i < list.length; i++) {
      if (list[i]![0] < list[i - 1]![1]) return `slices of track ${track} overlap at ${list[i]![0]} µs`
    }
  }
  for (const { index, track, ts } of bound) {
    const list = slices.get(track) ?? []
    let low = 0
    let high = list.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (list[middle]![0] <= ts) low = middle + 1
      else high = middle
    }
    const slice = list[low - 1]
    if (slice === undefined || slice[1] < ts) return `traceEvents.${index}: no slice of track ${track} holds ${ts} µs`
    if (slice[2] > index) return `traceEvents.${index}: its slice comes later in the file, traceEvents.${slice[2]}`
  }
  return null
}
