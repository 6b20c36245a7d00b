/** Strokes in a square of 16. */
const paths = {
  play: "M5 3.5v9l7-4.5z",
  stop: "M4.5 4.5h7v7h-7z",
  first: "M4 4v8M12.5 4 6.5 8l6 4z",
  last: "M12 4v8M3.5 4l6 4-6 4z",
  previous: "M10.5 3.5 5 8l5.5 4.5",
  next: "M5.5 3.5 11 8l-5.5 4.5",
  wait: "M8 4.5V8l2.2 1.6M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0z",
  branch: "M5 3.2v9.6M5 9.5c5 0 6-1.5 6-4.5M3.4 3.2h3.2v-1h-3.2zM9.4 4.6h3.2v-1.6H9.4zM3.4 13.8h3.2v-1.4H3.4z",
  fit: "M2.5 6V2.5H6M10 2.5h3.5V6M13.5 10v3.5H10M6 13.5H2.5V10",
  plus: "M8 3.5v9M3.5 8h9",
  minus: "M3.5 8h9",
  close: "m4.2 4.2 7.6 7.6M11.8 4.2l-7.6 7.6",
  share: "M6.5 9.5 9.5 6.5M7 4.8l1.5-1.5a2.8 2.8 0 0 1 4 4L11 8.8M9 11.2l-1.5 1.5a2.8 2.8 0 0 1-4-4L5 7.2",
  save: "M8 2.5v7.5M4.8 7 8 10.2 11.2 7M3 13h10",
  help: "M6.2 6.2a1.9 1.9 0 1 1 2.6 1.9c-.6.3-.8.7-.8 1.3M8 11.7v.1M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0z",
  theme: "M8 2a6 6 0 1 0 0 12zM8 2a6 6 0 0 1 0 12",
  undo: "M5.5 3 2.8 5.7l2.7 2.7M3 5.7h6.2a3.6 3.6 0 0 1 0 7.3H6",
  file: "M4 2.5h5l3 3v8H4zM9 2.5v3h3",
  check: "m3 8.5 3.2 3.2L13 4.8",
} as const

export type IconName = keyof typeof paths

/** Decoration: what it stands for is said beside it, or by its button's label. */
export const Icon = ({ name }: { readonly name: IconName }) => (
  <svg className="icon" viewBox="0 0 16 16" aria-hidden="true" focusable="false">
    <path d={paths[name]} />
  </svg>
)
