import { countLabel, durationLabel } from "../layout/Ticks.ts"
import type { Preview as PreviewData } from "../protocol/Protocol.ts"

/** What a scenario would run, before it does. */
export const Preview = ({ preview }: { readonly preview: PreviewData }) => {
  const { requests, spanSeconds, promptTokens, outputTokens, arrivals, lengths, slabs, kvTokens, about } = preview
  const isWide = window.matchMedia("(width >= 900px)").matches
  const mostArrivals = Math.max(1, ...arrivals)
  const mostLengths = Math.max(1, ...lengths.map(({ count }) => count))
  return (
    <div className="preview">
      <dl className="facts">
        <div>
          <dt>requests</dt>
          <dd>
            {countLabel(requests)} in {durationLabel(spanSeconds * 1e6)}
          </dd>
        </div>
        <div>
          <dt>tokens</dt>
          <dd>
            {countLabel(promptTokens)} in, {countLabel(outputTokens)} out
          </dd>
        </div>
        <div>
          <dt>memory of a replica</dt>
          <dd>{countLabel(slabs)} slabs</dd>
        </div>
        <div>
          <dt>prompt tokens that fit, dense</dt>
          <dd>{countLabel(kvTokens)}</dd>
        </div>
      </dl>
      <figure className="mini">
        <figcaption>Arrivals over time</figcaption>
        <svg
          viewBox={`0 0 ${arrivals.length} 24`}
          preserveAspectRatio="none"
          role="img"
          aria-label={`Arrivals: at most ${mostArrivals} in a 64th of the time`}
        >
          {arrivals.map((count, i) => (
            <rect
              key={i}
              x={i + 0.1}
              width={0.8}
              y={24 - (count / mostArrivals) * 24}
              height={(count / mostArrivals) * 24}
            />
          ))}
        </svg>
      </figure>
      <figure className="mini">
        <figcaption>Prompt lengths</figcaption>
        <ul className="lengths">
          {lengths.map(({ to, count }) => (
            <li key={to}>
              <span>{to > 1e9 ? "longer" : `< ${to >= 1024 ? `${to / 1024}K` : to}`}</span>
              <i style={{ width: `${(count / mostLengths) * 100}%` }} />
              <span>{countLabel(count)}</span>
            </li>
          ))}
        </ul>
      </figure>
      <details open={isWide}>
        <summary className="minor">What the figures will rest on</summary>
        <pre className="about">
          {about.map((line) => (
            <span key={line}>{line}</span>
          ))}
        </pre>
      </details>
    </div>
  )
}
