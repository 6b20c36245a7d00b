import { createHash, timingSafeEqual } from "node:crypto"

/**
 * The keys that clients may present. Kept and compared as SHA-256 digests, every key on every check, so that neither a
 * key's length nor a matching prefix shows in the time it takes.
 */
export class ApiKeys {
  readonly #digests: ReadonlyArray<Buffer>

  constructor(keys: ReadonlyArray<string>) {
    this.#digests = keys.map(digest)
  }

  /** Whether clients need a key at all. */
  get required(): boolean {
    return this.#digests.length > 0
  }

  /** `header` is the value of `Authorization`. */
  accepts(header: string | undefined): boolean {
    if (!this.required) return true
    const presented = digest(/^bearer +(.+)$/i.exec(header ?? "")?.[1] ?? "")
    let accepted = false
    for (const known of this.#digests) if (timingSafeEqual(known, presented)) accepted = true
    return accepted
  }
}

const digest = (key: string): Buffer => createHash("sha256").update(key, "utf8").digest()
