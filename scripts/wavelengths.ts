// bun run wavelengths: draws docs/pictures/wavelengths.svg, the wavelength of each pair before and after scaling, for every frequency rule. With --check
// it writes nothing and fails if the picture would change.
// deno-lint-ignore-file no-console
import { mkdirSync, writeFileSync } from "node:fs";
import process from "node:process";
import { inProject, readIfThere } from "./support/paths.ts";
import { main, ScriptError } from "./support/process.ts";
import { wavelengths } from "./support/wavelengths.ts";

const path = "docs/pictures/wavelengths.svg";

await main(async () => {
  const wanted = await wavelengths();
  if (readIfThere(inProject(path)) === wanted) return 0;
  if (process.argv.includes("--check")) throw new ScriptError(`${path} is not what the rules say. Run: bun run wavelengths`);
  mkdirSync(inProject("docs", "pictures"), { recursive: true });
  writeFileSync(inProject(path), wanted);
  console.log(`wrote ${path}`);
  return 0;
});
