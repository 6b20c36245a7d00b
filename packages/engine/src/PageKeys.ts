import { createHash } from "node:crypto"

/**
 * Keys of a request's full pages: a chain of hashes, so that a key stands for every token up to its page's end. Equal keys
 * mean equal content; one hash a page, whatever the number of tokens.
 *
 * Tenants have chains of their own, and within a tenant each cache salt has: nobody can learn from a fast answer what
 * another has asked.
 */
export class PageKeys {
  private readonly page: Int32Array
  /** The same memory as `page`. */
  private readonly bytes: Uint8Array
  private filled = 0
  private last: string

  /** `root` is the key before the first page. */
  private constructor(root: string, page: Int32Array) {
    this.last = root
    this.page = page
    this.bytes = new Uint8Array(page.buffer)
  }

  static make(fingerprint: string, tenant: string, cacheSalt: string, pageSize: number): PageKeys {
    // As JSON, so that no two triples give the same text, whatever characters they hold.
    const text = JSON.stringify([fingerprint, tenant, cacheSalt])
    if (lastRoot.text !== text) lastRoot = { text, key: createHash("sha256").update(text).digest("base64") }
    return new PageKeys(lastRoot.key, new Int32Array(pageSize))
  }

  /** A chain that goes on from the same tokens by itself. */
  copy(): PageKeys {
    const copy = new PageKeys(this.last, this.page.slice())
    copy.filled = this.filled
    return copy
  }

  /** Tokens that are missing until a page is full. */
  get missing(): number {
    return this.page.length - this.filled
  }

  /** Takes the next tokens; returns the keys of the pages that they complete. */
  push(tokens: Int32Array): Array<string> {
    const { page } = this
    const keys: Array<string> = []
    for (let at = 0; at < tokens.length;) {
      const taken = Math.min(tokens.length - at, page.length - this.filled)
      page.set(tokens.subarray(at, at + taken), this.filled)
      at += taken
      this.filled += taken
      if (this.filled < page.length) break
      this.filled = 0
      this.last = createHash("sha256").update(this.last).update(this.bytes).digest("base64")
      keys.push(this.last)
    }
    return keys
  }
}

/** Most requests have the root of the one before. */
let lastRoot = { text: "", key: "" }

/** What a page's content depends on besides tokens: the model, by its description. */
export const modelFingerprint = (spec: object): string =>
  createHash("sha256").update(JSON.stringify(spec)).digest("base64")
