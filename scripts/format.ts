// bun run format: formats everything, TypeScript, Markdown and JSON with `deno fmt`, C and C++ with clang-format.
// deno-lint-ignore-file no-console
import { install } from "./support/install.ts";
import { main, runOrThrow } from "./support/process.ts";
import { filesUnder } from "./support/paths.ts";
import { clangFormat, deno } from "./support/tools.ts";

await main(async () => {
  await install();
  await runOrThrow(deno(), ["fmt", "--quiet"]);
  const formatter = clangFormat();
  const sources = filesUnder(["csrc", "test/c", "test/cuda", "test/support"], /\.(h|c|cpp|cu|cuh)$/);
  if (formatter === undefined) {
    console.log(`no clang-format for this machine in node_modules: ${sources.length} C and C++ files left as they are`);
  } else if (sources.length > 0) await runOrThrow(formatter, ["-i", ...sources]);
});
