import { useSyncExternalStore } from "react"

/** A value that components watch. */
export class Store<A> {
  private value: A
  private readonly listeners = new Set<() => void>()

  constructor(value: A) {
    this.value = value
  }

  get(): A {
    return this.value
  }

  /** Changes some fields, and tells whoever watches. */
  set(change: Partial<A>): void {
    this.value = { ...this.value, ...change }
    for (const listener of this.listeners) listener()
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }
}

/** What `select` finds in the store, kept up to date. `select` returns the same thing as long as nothing changed. */
export const useStore = <A, B>(store: Store<A>, select: (value: A) => B): B =>
  useSyncExternalStore(store.subscribe, () => select(store.get()))
