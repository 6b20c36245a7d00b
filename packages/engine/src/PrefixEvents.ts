import type { PrefixListener } from "@uniprefill/scheduler/PrefixCache"
import type { PageKey } from "@uniprefill/scheduler/PrefixTree"
import type { Request } from "@uniprefill/scheduler/Request"
import type { Generation } from "./Generation.ts"

/** What the prefix cache holds, told as it changes. Keys are opaque; equal keys mean equal content. */
export type PrefixEvent =
  | {
      readonly _tag: "Stored"
      readonly key: string
      /** The page before it; null for a prompt's first. */
      readonly parent: string | null
      readonly tokens: Int32Array
    }
  | { readonly _tag: "Removed"; readonly key: string }
  | { readonly _tag: "Cleared" }

/**
 * Tells which pages can be shared. Pages of requests with a salt are not told of: nobody else could find them. A prefix may
 * be cached twice, for requests that drop and for those that do not: it is stored with the first and removed with the last.
 */
export class PrefixEvents implements PrefixListener {
  private readonly emit: (event: PrefixEvent) => void
  private readonly generationOf: (request: Request) => Generation | undefined
  private readonly pageSize: number
  private readonly copies = new Map<PageKey, number>()

  constructor(
    pageSize: number,
    generationOf: (request: Request) => Generation | undefined,
    emit: (event: PrefixEvent) => void,
  ) {
    this.pageSize = pageSize
    this.generationOf = generationOf
    this.emit = emit
  }

  stored(request: Request, page: number, key: PageKey, parent: PageKey | null): void {
    const generation = this.generationOf(request)
    if (generation === undefined || generation.request.cacheSalt !== undefined) return
    const copies = this.copies.get(key) ?? 0
    this.copies.set(key, copies + 1)
    if (copies > 0) return
    const tokens = generation.tokens(page * this.pageSize, (page + 1) * this.pageSize)
    this.emit({ _tag: "Stored", key: String(key), parent: parent === null ? null : String(parent), tokens })
  }

  removed(key: PageKey): void {
    const copies = this.copies.get(key)
    if (copies === undefined) return
    if (copies > 1) {
      this.copies.set(key, copies - 1)
      return
    }
    this.copies.delete(key)
    this.emit({ _tag: "Removed", key: String(key) })
  }

  cleared(): void {
    if (this.copies.size === 0) return
    this.copies.clear()
    this.emit({ _tag: "Cleared" })
  }
}
