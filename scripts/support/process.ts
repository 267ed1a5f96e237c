// Child processes of the scripts: one function that runs a program and gives back what it printed.
import { spawn } from "node:child_process";
import process from "node:process";
import { root } from "./paths.ts";

/** What a program printed, both streams in the order they came, and how it ended. */
export interface Finished {
  readonly code: number;
  readonly output: string;
}

export interface RunOptions {
  /** Default: the project's root. */
  readonly cwd?: string;
  /** Added to the environment. */
  readonly env?: Record<string, string>;
  /** Written to the program's standard input. */
  readonly input?: string;
  /** The program uses this terminal; `output` is empty then. */
  readonly inherit?: boolean;
}

// What is read by a script, or shown below a failed step, has no colours and no stack of the tool itself. (undefined: not set.)
const plain = { NO_COLOR: "1", FORCE_COLOR: undefined, RUST_BACKTRACE: undefined };

/** Runs a program to its end. A program that cannot be started or that a signal ends has code 127 or 128 + n, like in a shell. */
export function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<Finished> {
  return new Promise((resolve) => {
    const child = spawn(program, args, {
      cwd: options.cwd ?? root,
      env: { ...process.env, ...(options.inherit ? {} : plain), ...options.env },
      stdio: options.inherit ? "inherit" : "pipe",
    });
    let output = "";
    const decoders = { stdout: new TextDecoder(), stderr: new TextDecoder() };
    child.stdout?.on("data", (bytes: Uint8Array) => output += decoders.stdout.decode(bytes, { stream: true }));
    child.stderr?.on("data", (bytes: Uint8Array) => output += decoders.stderr.decode(bytes, { stream: true }));
    child.stdin?.on("error", () => {}); // a program may end without reading its input
    child.stdin?.end(options.input ?? "");
    child.on("error", (error: Error) => resolve({ code: 127, output: `${program}: ${error.message}\n` }));
    child.on("close", (code: number | null, signal: string | null) => {
      if (signal !== null) output += `ended by ${signal}\n`;
      resolve({ code: code ?? 128, output });
    });
  });
}

/** Like run, and throws with what the program printed unless it ends with 0. */
export async function runOrThrow(program: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const { code, output } = await run(program, args, options);
  if (code !== 0) throw new ScriptError(`${[program, ...args].join(" ")} ended with code ${code}\n${output}`.trimEnd());
  return output;
}

/** A failure whose message is all that the user needs; printed without a stack. */
export class ScriptError extends Error {}

/** Runs a script's main function; a ScriptError ends it with code 1 and its message. */
export async function main(body: () => Promise<number | void>): Promise<void> {
  try {
    process.exitCode = (await body()) ?? 0;
  } catch (error) {
    if (!(error instanceof ScriptError)) throw error;
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
  }
}

/** Milliseconds as a person reads them: "42 ms", "3.1 s". */
export function duration(milliseconds: number): string {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}
