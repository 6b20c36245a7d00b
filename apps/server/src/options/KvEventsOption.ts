import { decodeKvEventsConfig, type KvEventsConfig } from "../gateway/KvEventsConfig.ts"
import type { OptionSpec } from "./Options.ts"

/** Where and how prefix cache events are published; undefined: nowhere. */
export const kvEventsOption = (spec: {
  readonly metavar: string
  readonly description: string
  readonly shownDefault: string
}): OptionSpec<KvEventsConfig | undefined> => ({ ...spec, defaultValue: undefined, decode: decodeKvEventsConfig })
