// bun run build: makes build/librope.so if it is stale. Needs CMake and a C++ compiler, and nothing of node_modules.
// deno-lint-ignore-file no-console
import { buildLibrary, librarySize } from "./support/native.ts";
import { duration, main } from "./support/process.ts";

await main(async () => {
  const start = performance.now();
  const result = await buildLibrary();
  console.log(`build/librope.so (${librarySize()}) ${result}, ${duration(performance.now() - start)}`);
});
