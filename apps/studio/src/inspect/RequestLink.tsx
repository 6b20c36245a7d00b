import { useStudio } from "../state/Context.ts"

/** A request by its number, which selects it. */
export const RequestLink = ({ row }: { readonly row: number }) => {
  const studio = useStudio()
  return (
    <button type="button" className="link" onClick={() => studio.select({ request: row })}>
      request {row + 1}
    </button>
  )
}
