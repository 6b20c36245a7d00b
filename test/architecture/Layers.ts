/**
 * The direction of the arrows: a package imports packages of earlier layers only, never one of its own layer.
 *
 *     units, threads ← model, tokenizer ← scheduler ← placement, cost-model ← executor, recording ← simulator,
 *     executor-native ← engine ← apps
 *
 * The first layer's other packages stand alone.
 */
export const layers: ReadonlyArray<ReadonlyArray<string>> = [
  ["packages/units", "packages/threads", "packages/openai", "packages/needle-10m-deep"],
  ["packages/model", "packages/tokenizer"],
  ["packages/scheduler"],
  ["packages/placement", "packages/cost-model"],
  ["packages/executor", "packages/recording"],
  ["packages/simulator", "packages/executor-native"],
  ["packages/engine"],
  ["apps/server", "apps/sim", "apps/studio"],
]

/** Workspaces that hold no module of the product. */
export const unlayered: ReadonlyArray<string> = ["packages/workspace", "native"]

/** Packages that only apps may import: what they are about ends at the border. */
export const borderPackages: ReadonlyArray<string> = ["packages/openai", "packages/needle-10m-deep"]

/** Folders that are deterministic in their arguments; `.oxlintrc.json` names the same. */
export const coreFolders: ReadonlyArray<string> = [
  "packages/units/src",
  "packages/model/src",
  "packages/scheduler/src",
  "packages/cost-model/src",
  "packages/placement/src",
]

/** Files and folders (`/**`) in them that read files, make Effects or decode with Schema, and so are no part of the core; `.oxlintrc.json` names the same. */
export const shellFiles: ReadonlyArray<string> = [
  "packages/model/src/JsonFile.ts",
  "packages/model/src/ModelConfig.ts",
  "packages/model/src/ModelDirectory.ts",
  "packages/model/src/ModelError.ts",
  "packages/model/src/ModelTable.ts",
  "packages/model/src/Safetensors.ts",
  "packages/model/src/ScheduleFile.ts",
  "packages/model/src/families/**",
]

/** `packages/NAME/src/services/` is where a core package meets Effect. */
const servicesFolder = /^packages\/[^/]+\/src\/services\//

/** @param file relative to the root, with forward slashes. */
export const isCore = (file: string): boolean =>
  coreFolders.some((folder) => file.startsWith(`${folder}/`)) &&
  !shellFiles.some((shell) => (shell.endsWith("/**") ? file.startsWith(shell.slice(0, -2)) : file === shell)) &&
  !servicesFolder.test(file)
