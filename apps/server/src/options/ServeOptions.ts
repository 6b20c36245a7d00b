import * as Kind from "./OptionKinds.ts"
import { modelOptions } from "./ModelOptions.ts"
import type { OptionValues } from "./Options.ts"
import { serverLimits } from "../http/ServerLimits.ts"

export const serveOptions = {
  ...modelOptions,
  host: Kind.text({
    metavar: "ADDRESS",
    description: "Address to listen on. 0.0.0.0 is every network of this machine: set --api-key then",
    defaultValue: "127.0.0.1",
  }),
  port: Kind.integer({
    metavar: "PORT",
    description: "Port to listen on; 0 takes a free one",
    defaultValue: 8000,
    minimum: 0,
    maximum: 65_535,
  }),
  "served-model-name": Kind.list({
    metavar: "NAME[,NAME]",
    description: "What clients call the model",
    shownDefault: "the name of its directory",
  }),
  "api-key": Kind.list({
    metavar: "KEY[,KEY]",
    description:
      "Keys of which clients must send one. Each is a tenant: cached prefixes are not shared with the others, and " +
      "--policy fair-share is fair between them. Other users of this machine see flags: prefer UNIPREFILL_API_KEY",
    shownDefault: "none needed",
  }),
  "max-body": Kind.bytes({
    metavar: "SIZE",
    description: "Largest request body",
    defaultValue: `${serverLimits.bodyBytes / 1024 / 1024}MiB`,
    minimum: 1024,
  }),
  "drain-seconds": Kind.integer({
    metavar: "S",
    description: "After SIGTERM: how long running requests may take to finish",
    defaultValue: 30,
    minimum: 0,
    maximum: 86_400,
  }),
  "stall-seconds": Kind.integer({
    metavar: "S",
    description: "/ready says 503 when work waits and no step has finished for this long",
    defaultValue: 60,
    minimum: 1,
    maximum: 86_400,
  }),
  "log-format": Kind.choice({
    metavar: "text|json",
    description: "Form of the log lines on stderr",
    choices: ["text", "json"],
    defaultValue: "text",
  }),
}

export type ServeSettings = OptionValues<typeof serveOptions>
