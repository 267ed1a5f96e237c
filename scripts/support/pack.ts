// Makes the package's tarball.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { buildLibrary } from "./native.ts";
import { runOrThrow } from "./process.ts";
import { bun } from "./tools.ts";

/** Builds what is stale and packs the project into a folder. Gives back the tarball's path. */
export async function pack(folder: string): Promise<string> {
  await buildLibrary();
  mkdirSync(folder, { recursive: true });
  const output = await runOrThrow(bun(), ["pm", "pack", "--ignore-scripts", "--quiet", "--destination", folder]);
  return join(folder, output.trim().replace(/^.*\//, ""));
}
