import { modelOptions, type ModelSettings } from "uniprefill/options/ModelOptions"

/** The server's own defaults, for a model directory; undefined for the model that comes with the server. */
export const settingsOf = (model: string | undefined): ModelSettings => {
  const defaults = Object.entries(modelOptions).map(([name, { defaultValue }]) => [name, defaultValue])
  return { ...Object.fromEntries(defaults), model } as ModelSettings
}
