// Opens bench/support/c_loop.c, compiled at each start: the benchmarks' C side.
import { mkdirSync, rmSync } from "node:fs";
import process from "node:process";
import { inProject } from "../../scripts/support/paths.ts";
import { runOrThrow, ScriptError } from "../../scripts/support/process.ts";
import { cc } from "../../scripts/support/tools.ts";
import { library } from "../../src/native/library.ts";
import { errorRecord } from "../../src/native/status.ts";

/** The C side. */
export interface CLoop {
  /** Calls a function of librope.so with a block, `samples` times `batch` calls. Gives back the nanoseconds of a call for each sample. */
  call(symbol: string, block: Uint8Array, samples: number, batch: number): Float64Array;
  /** Nanoseconds of one memcpy on this thread, the mean of `batch`. */
  memcpy(target: number, source: number, bytes: number, batch: number): number;
}

type Entry = (block: Uint8Array, unused: Uint8Array) => number;
interface BunFfi {
  dlopen(path: string, table: object): { symbols: Record<string, Entry> };
}
interface DenoNamespace {
  dlopen(path: string, table: object): { symbols: Record<string, Entry> };
}

/** Compiles and opens it. Throws ScriptError where there is no C compiler. */
export async function openCLoop(): Promise<CLoop> {
  const compiler = cc();
  if (compiler === undefined) {
    throw new ScriptError("The benchmarks need a C compiler (cc, gcc or clang). Debian, Ubuntu: sudo apt-get install gcc");
  }
  mkdirSync(inProject("build", "bench"), { recursive: true });
  const path = inProject("build", "bench", `c_loop-${process.pid}.so`);
  await runOrThrow(compiler, [
    "-O2",
    "-Wall",
    "-Wextra",
    "-shared",
    "-fPIC",
    "-o",
    path,
    inProject("bench", "support", "c_loop.c"),
    "-ldl",
  ]);
  const { bench_call, bench_memcpy } = open(path, ["bench_call", "bench_memcpy"]);
  rmSync(path); // it stays open
  if (bench_call === undefined || bench_memcpy === undefined) throw new ScriptError(`${path} has no bench_call and bench_memcpy`);
  const libraryPath = text(library().path);

  return {
    call(symbol, block, samples, batch): Float64Array {
      const name = text(symbol);
      const times = new Float64Array(new ArrayBuffer(8 * samples));
      const addresses = [libraryPath, name, block, errorRecord].map((view) => addressOf(view));
      const status = bench_call(words([...addresses, samples, batch, addressOf(times)]), errorRecord);
      if (status !== 0) throw new ScriptError(`${symbol} in a C loop: status ${status}`);
      return times;
    },
    memcpy(target, source, bytes, batch): number {
      const block = words([target, source, bytes, batch, 0]);
      bench_memcpy(block, errorRecord);
      return new Float64Array(block.buffer)[4] ?? NaN;
    },
  };
}

function open(path: string, names: readonly string[]): Record<string, Entry | undefined> {
  const deno = (globalThis as unknown as { Deno?: DenoNamespace }).Deno;
  if (deno !== undefined) {
    const table = Object.fromEntries(names.map((name) => [name, { parameters: ["buffer", "buffer"], result: "i32" }]));
    return deno.dlopen(path, table).symbols;
  }
  const table = Object.fromEntries(names.map((name) => [name, { args: ["buffer", "buffer"], returns: "i32" }]));
  return (process.getBuiltinModule("bun:ffi") as unknown as BunFfi).dlopen(path, table).symbols;
}

function addressOf(view: Uint8Array | Float64Array): number {
  return library().address(new Uint8Array(view.buffer)) + view.byteOffset;
}

function words(values: readonly number[]): Uint8Array<ArrayBuffer> {
  const block = new BigUint64Array(new ArrayBuffer(8 * values.length));
  values.forEach((value, i) => block[i] = BigInt(value));
  return new Uint8Array(block.buffer);
}

// A string as C reads it.
function text(value: string): Uint8Array {
  const bytes = new TextEncoder().encode(`${value}\0`);
  const memory = new Uint8Array(new ArrayBuffer(bytes.length));
  memory.set(bytes);
  return memory;
}
