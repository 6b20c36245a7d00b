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

  constructor(fingerprint: string, tenant: string, cacheSalt: string, pageSize: number) {
    this.page = new Int32Array(pageSize)
    this.bytes = new Uint8Array(this.page.buffer)
    // As JSON, so that no two triples give the same text, whatever characters they hold.
    this.last = createHash("sha256")
      .update(JSON.stringify([fingerprint, tenant, cacheSalt]))
      .digest("base64")
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

/** What a page's content depends on besides tokens: the model, by its description. */
export const modelFingerprint = (spec: object): string =>
  createHash("sha256").update(JSON.stringify(spec)).digest("base64")
