// Brings node_modules up to bun.lock. Every script that needs a development tool starts with this, so it imports nothing from there itself.
import { existsSync, writeFileSync } from "node:fs";
import process from "node:process";
import { fingerprint, inProject, readIfThere } from "./paths.ts";
import { run, ScriptError } from "./process.ts";

/** Installs the development dependencies with the Bun that runs this script, unless they are those of bun.lock already. */
export async function install(): Promise<void> {
  if (!("Bun" in globalThis)) throw new ScriptError("The scripts run on Bun. With Node and npm: npx -y bun run test");
  const stamp = inProject("node_modules", ".librope-installed");
  const wanted = fingerprint(["package.json", "bun.lock"]);
  if (readIfThere(stamp) === wanted) return;
  process.stdout.write("installing the development dependencies\n");
  const { code, output } = await run(process.execPath, ["install", "--frozen-lockfile"]);
  if (code !== 0) throw new ScriptError(`bun install --frozen-lockfile failed:\n${output}`);
  if (existsSync(inProject("node_modules"))) writeFileSync(stamp, wanted);
}
