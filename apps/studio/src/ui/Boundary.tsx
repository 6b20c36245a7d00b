import { Component, type ReactNode } from "react"

interface Props {
  readonly children: ReactNode
}

/** What cannot be shown is said in its place, and the rest of the page stays as it is. */
export class Boundary extends Component<Props, { readonly error: Error | null }> {
  override state: { readonly error: Error | null } = { error: null }

  static getDerivedStateFromError(error: Error) {
    return { error }
  }

  override render(): ReactNode {
    const { error } = this.state
    if (error === null) return this.props.children
    return (
      <div className="empty" role="alert">
        <h2>This view cannot be shown</h2>
        <p className="fault">a defect of this page: {error.message}</p>
        <p>Your scenario and the other runs are as they were.</p>
      </div>
    )
  }
}
