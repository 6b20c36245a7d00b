import { createHash, timingSafeEqual } from "node:crypto"

/**
 * The keys that clients may present; each stands for a tenant. Kept and compared as SHA-256 digests, every key on every check, so that neither a
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

  /**
   * The tenant that sends `header`, the value of `Authorization`: `key-1` with the first key, `key-2` with the second …,
   * and "" where none is needed. Null without a key of these.
   */
  tenantOf(header: string | undefined): string | null {
    if (!this.required) return ""
    const presented = digest(/^bearer +(.+)$/i.exec(header ?? "")?.[1] ?? "")
    let tenant: string | null = null
    for (const [i, known] of this.#digests.entries()) if (timingSafeEqual(known, presented)) tenant ??= `key-${i + 1}`
    return tenant
  }
}

const digest = (key: string): Buffer => createHash("sha256").update(key, "utf8").digest()
