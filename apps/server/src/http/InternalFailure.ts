import { apiError } from "./ApiError.ts"

/** What a client is told of a fault of this server's own. */
export const internalFailure = apiError(500, "internal error; the server's log has more")
