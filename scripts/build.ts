// bun run build: makes build/librope.so if it is stale. Needs CMake and a C++ compiler, and nothing of node_modules.
// bun run build --kernels [90a-real]: compiles the kernels alone, and prints the registers, stack and spills of each; none may spill.
// deno-lint-ignore-file no-console
import process from "node:process";
import { kernelReport } from "./support/kernels.ts";
import { buildLibrary, librarySize } from "./support/native.ts";
import { duration, main } from "./support/process.ts";

await main(async () => {
  const start = performance.now();
  if (process.argv[2] === "--kernels") {
    const { table, spilling } = await kernelReport(process.argv[3] ?? "90a-real");
    console.log(
      `${table}\n${spilling === 0 ? "no kernel spills" : `spilling kernels: ${spilling}`}, ${duration(performance.now() - start)}`,
    );
    return spilling > 0 ? 1 : 0;
  }
  const result = await buildLibrary();
  console.log(`build/librope.so (${librarySize()}) ${result}, ${duration(performance.now() - start)}`);
  return 0;
});
