import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

const sidecarUrl = process.env.ATTN_SIDECAR_URL ?? "http://127.0.0.1:9009";

/** What the sidecar answers; everything else is the explorer's. */
const SIDECAR_PATHS = [
  "/health",
  "/stats",
  "/fingerprint",
  "/classify",
  "/discovery",
  "/requests",
  "/points",
  "/clusters",
  "/zones",
  "/runs",
  "/compare",
  "/openapi.json",
];

export default defineConfig({
  plugins: [react()],
  // Relative to the page, so that any path prefix of a proxy will do.
  base: "./",
  server: {
    port: 5173,
    strictPort: true,
    proxy: {
      ...Object.fromEntries(SIDECAR_PATHS.map((path) => [path, { target: sidecarUrl, changeOrigin: true }])),
      "/events": { target: sidecarUrl.replace(/^http/, "ws"), ws: true, changeOrigin: true },
    },
  },
  build: {
    // The sidecar serves it from there, and the wheel ships it.
    outDir: "../sidecar/attn_sidecar/static",
    emptyOutDir: true,
    target: "es2022",
    chunkSizeWarningLimit: 700,
  },
  test: { include: ["src/**/*.test.ts"], environment: "node" },
});
