import { defineConfig } from "vite"

export default defineConfig({
  // Works from any folder of any host.
  base: "./",
  resolve: { conditions: ["source", "browser", "module", "import", "default"] },
  worker: { format: "iife" },
  build: {
    outDir: "dist/site",
    emptyOutDir: true,
    target: "es2023",
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 2000,
    modulePreload: { polyfill: false },
  },
})
