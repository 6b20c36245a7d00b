import { availableParallelism } from "node:os"
import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"

export default defineConfig({
  ssr: { resolve: { conditions: ["source"] } },
  resolve: { conditions: ["source"] },
  test: {
    include: ["packages/*/test/**/*.test.ts", "apps/*/test/**/*.test.ts", "test/**/*.test.ts"],
    // For what hangs. Slowness fails nothing: machines differ, and some are busy.
    testTimeout: 900_000,
    hookTimeout: 900_000,
    expect: { poll: { timeout: 600_000 } },
    // Their packages have a condition of the same name, with TypeScript behind it that Node does not take.
    server: { deps: { inline: [/node_modules\/(?:ai|@ai-sdk|eventsource-parser)\//] } },
    pool: "forks",
    // Hundreds of tests start a program; its modules are compiled once.
    env: { NODE_COMPILE_CACHE: fileURLToPath(new URL("node_modules/.cache/compile", import.meta.url)) },
    // Some tests start servers and browsers, which take cores and memory of their own.
    maxWorkers: Math.min(8, Math.max(2, availableParallelism())),
  },
})
