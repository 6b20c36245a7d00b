import type { Family } from "./Family.ts"
import { gemma3 } from "./Gemma3.ts"
import { llama } from "./Llama.ts"
import { qwen35 } from "./Qwen35.ts"

const families: ReadonlyArray<Family> = [llama, gemma3, qwen35]

/** Architectures that config.json may name. */
export const supportedArchitectures: ReadonlyArray<string> = families.flatMap(({ architectures }) => architectures)

/** The family of an architecture; undefined for one that is not supported. */
export const familyOf = (architecture: string): Family | undefined =>
  families.find(({ architectures }) => architectures.includes(architecture))
