// Where things are in the project, and lists of its files.
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";

/** The folder of package.json. */
export const root: string = fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, "");

/** An absolute path in the project. */
export function inProject(...parts: readonly string[]): string {
  return join(root, ...parts);
}

/** The files under folders of the project that a pattern matches, relative to the root and sorted; folders that are not there have none. */
export function filesUnder(folders: readonly string[], pattern: RegExp): string[] {
  return folders
    .map((folder) => inProject(folder))
    .filter((folder) => existsSync(folder))
    .flatMap((folder) => readdirSync(folder, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .filter((path) => pattern.test(path))
    .sort();
}

/** A hash of the names and contents of files of the project. */
export function fingerprint(paths: readonly string[]): string {
  const hash = createHash("sha256");
  for (const path of paths) hash.update(`${path}\0`).update(readFileSync(inProject(path))).update("\0");
  return hash.digest("hex");
}

/** The text of a file, or undefined where there is none. */
export function readIfThere(path: string): string | undefined {
  return existsSync(path) ? readFileSync(path, "utf8") : undefined;
}
