import { Layer, Logger } from "effect"

/** One line an event on stderr, so that stdout is the program's own. */
export const layer = (format: "text" | "json"): Layer.Layer<never> =>
  Logger.layer([Logger.withConsoleError(format === "json" ? Logger.formatJson : Logger.formatLogFmt)])
