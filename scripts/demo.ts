// bun run demo [path/to/config.json]: installs, builds what is stale, and runs examples/demo.ts.
import process from "node:process";
import { inProject } from "./support/paths.ts";
import { main } from "./support/process.ts";
import { runProgram } from "./support/program.ts";

await main(() => runProgram(inProject("examples", "demo.ts"), process.argv.slice(2)));
