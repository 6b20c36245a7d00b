import type { StepState } from "@uniprefill/simulator/timetravel/StepState"
import { countLabel } from "../layout/Ticks.ts"
import { percent } from "./KeptStrip.tsx"
import { Section } from "./Section.tsx"

/** Slabs of the step's replica: who holds them, and the prefix cache. */
export const MemorySection = ({ state }: { readonly state: StepState }) => {
  const { total, used, slots, slotsFree } = state.memory
  const title = `Memory: ${percent(used / total)} in use, ${slots - slotsFree} of ${slots} slots`
  return <Section title={title}>{() => <Holders memory={state.memory} />}</Section>
}

const Holders = ({ memory }: { readonly memory: StepState["memory"] }) => {
  const { total, used, reserved, free, draining, cache } = memory
  const shared = cache.slabs - cache.idleSlabs
  const own = Math.max(0, used - draining - shared)
  const parts = [
    { name: "held by requests alone", slabs: own, mark: "var(--segment-a)" },
    { name: "cached prefixes in use", slabs: shared, mark: "var(--shared)" },
    { name: "touched by steps in flight", slabs: draining, mark: "var(--soft)" },
    { name: "cached prefixes nobody uses", slabs: cache.idleSlabs, mark: "var(--idle)" },
    { name: "free", slabs: free, mark: "var(--lane)" },
  ]
  return (
    <>
      <div className="bar" aria-hidden="true">
        {parts.map(({ name, slabs, mark }) => (
          <i key={name} style={{ flexGrow: slabs, background: mark }} />
        ))}
      </div>
      <dl className="facts">
        {parts.map(({ name, slabs, mark }) => (
          <div key={name}>
            <dt>
              <i className="swatch" style={{ background: mark }} />
              {name}
            </dt>
            <dd>{countLabel(slabs)}</dd>
          </div>
        ))}
        <div>
          <dt>reserved for prefills under way</dt>
          <dd>{countLabel(reserved)}</dd>
        </div>
        <div>
          <dt>free and unreserved, idle prefixes included</dt>
          <dd>{countLabel(memory.unreserved)}</dd>
        </div>
        <div>
          <dt>all slabs</dt>
          <dd>{countLabel(total)}</dd>
        </div>
      </dl>
      <h3>Prefix cache</h3>
      {cache.pages === 0 ? (
        <p className="soft">No page is cached.</p>
      ) : (
        <>
          <p>
            {countLabel(cache.pages)} pages of {countLabel(cache.prefixes)} prefixes; nobody uses{" "}
            {countLabel(cache.idlePages)} of them.
          </p>
          <ol className="prefixes" aria-label="The largest prefixes">
            {cache.largest.map(({ pages, longest, users }, i) => (
              <li key={i}>
                <i style={{ width: `${(pages / cache.largest[0]!.pages) * 100}%` }} />
                <span>
                  {countLabel(pages)} pages, the longest way {countLabel(longest)}, {users}{" "}
                  {users === 1 ? "user" : "users"}
                </span>
              </li>
            ))}
          </ol>
        </>
      )}
    </>
  )
}
