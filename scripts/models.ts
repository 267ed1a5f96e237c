// bun run models: writes docs/models.md, every golden case with how it is made and how close it comes. With --check it writes nothing and fails
// if the page would change.
// deno-lint-ignore-file no-console
import { writeFileSync } from "node:fs";
import process from "node:process";
import { Device } from "../mod.ts";
import { page } from "../test/rope/models.ts";
import { inProject, readIfThere } from "./support/paths.ts";
import { main, ScriptError } from "./support/process.ts";

const path = "docs/models.md";

await main(() => {
  const wanted = page(Device.open("cpu"));
  if (readIfThere(inProject(path)) === wanted) return Promise.resolve(0);
  if (process.argv.includes("--check")) throw new ScriptError(`${path} is not what the goldens say. Run: bun run models`);
  writeFileSync(inProject(path), wanted);
  console.log(`wrote ${path}`);
  return Promise.resolve(0);
});
