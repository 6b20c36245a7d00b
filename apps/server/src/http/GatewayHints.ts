import { Context } from "effect"

/** What the headers of a request say about it; fields of the body go first. */
export class GatewayHints extends Context.Service<
  GatewayHints,
  {
    /** `x-request-id`, where it is one that an answer can be named after. */
    readonly requestId: string | undefined
    /** `x-slo-ttft-ms` of a gateway that is trusted. */
    readonly ttftMs: number | undefined
    /** `x-gateway-inference-objective` of a gateway that is trusted, where it is a number. */
    readonly priority: number | undefined
  }
>()("uniprefill/GatewayHints") {}

type Hints = GatewayHints["Service"]

const requestIdPattern = /^[\w.:-]{1,128}$/

/** The hints of a request's headers; `trusted` says whether those that change how it is served are listened to. */
export const gatewayHints = (headers: Readonly<Record<string, string | undefined>>, trusted: boolean): Hints => {
  const id = headers["x-request-id"]
  const ttft = trusted ? Number(headers["x-slo-ttft-ms"] ?? Number.NaN) : Number.NaN
  const objective = trusted ? Number(headers["x-gateway-inference-objective"] ?? Number.NaN) : Number.NaN
  return {
    requestId: id !== undefined && requestIdPattern.test(id) ? id : undefined,
    ttftMs: ttft >= 1 && ttft <= 86_400_000 ? ttft : undefined,
    priority: Number.isInteger(objective) && Math.abs(objective) <= 0x7fff_ffff ? objective : undefined,
  }
}

/** The tenant of a request: that of its key, and within it the one that a trusted gateway names. */
export const gatewayTenant = (
  tenant: string,
  headers: Readonly<Record<string, string | undefined>>,
  trusted: boolean,
): string => {
  const named = trusted ? headers["x-gateway-inference-fairness-id"] : undefined
  return named === undefined || named === "" ? tenant : `${tenant}/${named.slice(0, 128)}`
}
