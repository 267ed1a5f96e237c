// What the environment switches on: ROPE_LOG=1 says what is opened and what was leaked, ROPE_TRACE=1 logs every native call with its
// duration. Off, neither costs anything: the calls are wrapped when the library is opened, or not at all.
import type { Backend, NativeFunction, NativeFunctions } from "./symbols.ts";
import { symbols } from "./symbols.ts";

let level = 0;

/** Reads ROPE_LOG. */
export function configureLog(backend: Backend): void {
  level = Number(backend.environment("ROPE_LOG") ?? 0) || 0;
}

/** Writes a line to standard error where ROPE_LOG is at least 1. */
export function log(text: string): void {
  if (level >= 1) write(text);
}

/** Writes a warning to standard error, whatever ROPE_LOG is. */
export function warn(text: string): void {
  // deno-lint-ignore no-console
  console.warn(`librope: ${text}`);
}

/** The functions themselves, or wrapped ones where ROPE_TRACE=1. */
export function traced(backend: Backend, functions: NativeFunctions): NativeFunctions {
  const wanted = backend.environment("ROPE_TRACE");
  if (wanted === undefined || wanted === "" || wanted === "0") return functions;
  const wrapped = {} as NativeFunctions;
  for (const name of symbols) wrapped[name] = timed(name, functions[name]);
  return wrapped;
}

function timed(name: string, call: NativeFunction): NativeFunction {
  return (block, error) => {
    const start = performance.now();
    const status = call(block, error);
    const micros = (performance.now() - start) * 1000;
    write(`${name} ${micros.toFixed(1)} us${status === 0 ? "" : `, status ${status}`}`);
    return status;
  };
}

function write(text: string): void {
  // deno-lint-ignore no-console
  console.error(`librope: ${text}`);
}
