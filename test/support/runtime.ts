// What tests need of the runtime and each runtime does differently: garbage collection, memory in use, child processes, temporary files.
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

interface Globals {
  readonly Bun?: { gc(force: boolean): void };
  readonly gc?: () => void;
}
const globals = globalThis as unknown as Globals;

/** The runtime that runs the tests. */
export const runtime: "bun" | "deno" = globals.Bun === undefined ? "deno" : "bun";

/** The project's folder. */
export const root: string = fileURLToPath(new URL("../..", import.meta.url));

/** The URL of a file of the project, for import statements in generated programs. */
export function projectUrl(path: string): string {
  return new URL(path, new URL("../..", import.meta.url)).href;
}

/** Collects garbage until `done` says so, at most some twenty times; finalizers run in between. Without `done`: a few times. */
export async function collectGarbage(done?: () => boolean): Promise<void> {
  for (let round = 0; round < (done === undefined ? 4 : 20); ++round) {
    if (globals.Bun !== undefined) globals.Bun.gc(true);
    else if (globals.gc !== undefined) globals.gc();
    else throw new Error("deno test needs --v8-flags=--expose-gc");
    await new Promise((resolve) => setTimeout(resolve, 10));
    if (done?.()) return;
  }
}

/** Bytes of memory that the process has in RAM. */
export function residentBytes(): number {
  return process.memoryUsage().rss;
}

/** A new empty folder under build/tmp, the one place where tests write. */
export function temporaryFolder(): string {
  const parent = join(root, "build", "tmp");
  mkdirSync(parent, { recursive: true });
  return mkdtempSync(join(parent, "test-"));
}

/** How a program ended and what it printed. `signal` where a signal ended it. */
export interface Ended {
  readonly code: number | null;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly args?: readonly string[];
  /** Added to the environment. */
  readonly env?: Record<string, string>;
  readonly cwd?: string;
  /** Deno's permission flags. */
  readonly permissions?: readonly string[];
}

/** Runs a TypeScript file in a process of the same runtime. */
export function runFile(path: string, options: RunOptions = {}): Promise<Ended> {
  const permissions = options.permissions ?? ["--allow-ffi", "--allow-read", "--allow-env"];
  const flags = runtime === "deno" ? ["run", "--quiet", "--no-check", "--no-prompt", "--v8-flags=--expose-gc", ...permissions] : ["run"];
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...flags, path, ...(options.args ?? [])], {
      cwd: options.cwd ?? root,
      env: { ...inherited(), NO_COLOR: "1", ...options.env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const printed = { stdout: "", stderr: "" };
    child.stdout.setEncoding("utf8").on("data", (text: string) => printed.stdout += text);
    child.stderr.setEncoding("utf8").on("data", (text: string) => printed.stderr += text);
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal, ...printed }));
  });
}

/** Runs a TypeScript program given as text. It imports the project by projectUrl(). */
export function runProgram(code: string, options: RunOptions = {}): Promise<Ended> {
  const path = join(temporaryFolder(), "program.ts");
  writeFileSync(path, code);
  return runFile(path, options);
}

// The environment without the loader's variables, which Deno hands on only with unrestricted --allow-run.
function inherited(): Record<string, string> {
  const kept = Object.entries(process.env).filter(([name]) => !/^(LD|DYLD)_/.test(name));
  return Object.fromEntries(kept) as Record<string, string>;
}
