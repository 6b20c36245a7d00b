import { appendFileSync, cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, dirname, join } from "node:path"

/** The repository's root. */
export const root = join(import.meta.dirname, "../..")

const leftOut = new Set(["node_modules", "dist", "build", ".turbo", "native"])

/**
 * A copy of the sources in a temporary folder, for planting violations in; removed when disposed. It sees the installed
 * packages of the original.
 */
export class CopiedTree implements Disposable {
  readonly root = mkdtempSync(join(tmpdir(), "uniprefill-architecture-"))

  constructor() {
    const copy = (name: string) =>
      cpSync(join(root, name), join(this.root, name), {
        recursive: true,
        filter: (file) => !leftOut.has(basename(file)) && !/\.(safetensors|txt)$/.test(file),
      })
    for (const name of ["packages", "apps", "package.json", "tsconfig.json", "tsconfig.base.json", ".oxlintrc.json"])
      copy(name)
    symlinkSync(join(root, "node_modules"), join(this.root, "node_modules"))
  }

  /** Adds a file. */
  add(file: string, text: string): void {
    mkdirSync(dirname(join(this.root, file)), { recursive: true })
    writeFileSync(join(this.root, file), text)
  }

  append(file: string, text: string): void {
    appendFileSync(join(this.root, file), text)
  }

  [Symbol.dispose](): void {
    rmSync(this.root, { recursive: true, force: true })
  }
}
