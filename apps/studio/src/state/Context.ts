import { createContext, useContext } from "react"
import { useStore } from "./Store.ts"
import type { Studio } from "./Studio.ts"
import type { StudioState } from "./StudioState.ts"

export const StudioContext = createContext<Studio | null>(null)

export const useStudio = (): Studio => useContext(StudioContext)!

/** Part of what the page knows, kept up to date. */
export const useStudioState = <A>(select: (state: StudioState) => A): A => useStore(useStudio().store, select)
