// bun run test [steps] [-- test files]: installs and builds what is stale, then checks everything in both runtimes. Without names all steps
// run, in this order; a step that fails shows its output and the rest goes on. The last line is the count: test cases, and one for every other
// step. `bun run test bun deno -- test/rope` runs some test files only.
// deno-lint-ignore-file no-console
import process from "node:process";
import { install } from "./support/install.ts";
import { duration, main, ScriptError } from "./support/process.ts";
import * as steps from "./support/steps.ts";

const separator = process.argv.indexOf("--");
const names = process.argv.slice(2, separator === -1 ? undefined : separator);
const testFiles = separator === -1 ? [] : process.argv.slice(separator + 1);

const all: Record<string, () => Promise<steps.Outcome>> = {
  "install": steps.installed,
  "build": steps.build,
  "layouts": steps.layouts,
  "bun": () => steps.bunTests(testFiles),
  "deno": () => steps.denoTests(testFiles),
  "fake-cuda": steps.fakeCuda,
  "kernels": steps.kernels,
  "types-bun": steps.typesBun,
  "types-deno": steps.typesDeno,
  "lint": steps.lint,
  "format": steps.format,
  "format-c": steps.formatC,
  "docs": steps.docs,
  "examples": steps.examples,
  "demo": steps.demo,
  "header": steps.header,
  "symbols": steps.symbols,
  "sanitize": steps.sanitize,
  "sanitize-cuda": steps.sanitizeCuda,
  "replay": steps.replay,
  "publish": steps.publish,
  "package": steps.packaged,
};

await main(async () => {
  const unknown = names.filter((name) => all[name] === undefined);
  if (unknown.length > 0) throw new ScriptError(`no step ${unknown.join(", ")}; the steps are ${Object.keys(all).join(", ")}`);
  if (names.length > 0) await install();

  let passed = 0;
  let failed = 0;
  for (const [name, step] of Object.entries(all)) {
    if (names.length > 0 && !names.includes(name)) continue;
    const start = performance.now();
    const outcome = await step().catch(steps.thrown);
    passed += outcome.passed;
    failed += outcome.failed;
    const verdict = outcome.failed > 0 ? "FAILED" : outcome.passed > 0 ? "ok" : "skipped";
    console.log(`${verdict.padEnd(8)}${name.padEnd(14)}${duration(performance.now() - start).padStart(8)}  ${outcome.note}`.trimEnd());
    if (outcome.failed > 0) console.log(`\n${shown(outcome.output)}\n`);
  }
  console.log(`${passed} passed, ${failed} failed`);
  return failed > 0 ? 1 : 0;
});

// A failed step's output, indented; of a very long one the beginning and the end.
function shown(output: string): string {
  const lines = output.trimEnd().split("\n");
  const cut = lines.length <= 400 ? lines : [...lines.slice(0, 200), `... ${lines.length - 400} lines ...`, ...lines.slice(-200)];
  return cut.map((line) => `    ${line}`.trimEnd()).join("\n");
}
