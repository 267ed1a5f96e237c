// Runs a program of the project (an example, a benchmark) after installing and building what is stale.
import process from "node:process";
import { install } from "./install.ts";
import { buildLibrary, librarySize } from "./native.ts";
import { duration, run } from "./process.ts";
import { bun } from "./tools.ts";

/** Runs a TypeScript file of the project on Bun with this terminal. Gives back its exit code. */
export async function runProgram(path: string, args: readonly string[]): Promise<number> {
  await install();
  const start = performance.now();
  if ((await buildLibrary()) === "built") {
    process.stdout.write(`built build/librope.so (${librarySize()}), ${duration(performance.now() - start)}\n`);
  }
  const { code } = await run(bun(), [path, ...args], { inherit: true, cwd: process.cwd() });
  return code;
}
