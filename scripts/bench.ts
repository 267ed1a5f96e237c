// bun run bench <name> [arguments]: installs, builds what is stale, and runs bench/<name>.ts. Without a name: lists them.
import process from "node:process";
import { filesUnder, inProject } from "./support/paths.ts";
import { main, ScriptError } from "./support/process.ts";
import { runProgram } from "./support/program.ts";

await main(() => {
  const [name, ...args] = process.argv.slice(2);
  const names = filesUnder(["bench"], /^bench\/[^/]+\.ts$/).map((path) => path.slice("bench/".length, -".ts".length));
  if (name === undefined || !names.includes(name)) {
    throw new ScriptError(`bun run bench <name> [arguments], where name is one of: ${names.join(", ")}`);
  }
  return runProgram(inProject("bench", `${name}.ts`), args);
});
