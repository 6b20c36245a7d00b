import { type ReactNode, useState } from "react"

/** A part of the inspector that is folded until somebody asks for it, and not made before: steps are looked at one after the other. */
export const Section = ({ title, children }: { readonly title: string; readonly children: () => ReactNode }) => {
  const [isOpen, setOpen] = useState(false)
  return (
    <details className="section" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{title}</summary>
      {isOpen ? children() : null}
    </details>
  )
}
