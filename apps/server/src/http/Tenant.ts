import { Context } from "effect"

/** Who sent the request that is being answered: one name for each API key, "" where clients need none. */
export class Tenant extends Context.Service<Tenant, string>()("uniprefill/http/Tenant") {}
