// Bun's FFI behind the Backend interface. bun:ffi comes through process.getBuiltinModule: synchronous, and nothing that Deno would try to
// resolve.
import { type Backend, type NativeFunction, type NativeFunctions, type NativeLibrary, symbols } from "./symbols.ts";

// Only what is used of bun:ffi, so that neither the shipped source nor its users need @types/bun.
interface BunFfi {
  dlopen(path: string, table: Record<string, { args: string[]; returns: string }>): { symbols: Record<string, unknown> };
  toArrayBuffer(address: number, offset: number, bytes: number): ArrayBuffer;
}
interface NodeFs {
  statSync(path: string, options: { throwIfNoEntry: false }): { isFile(): boolean } | undefined;
  read(fd: number, buffer: Uint8Array, offset: number, length: number, position: null, done: (error: unknown) => void): void;
}
interface BunProcess {
  env: Record<string, string | undefined>;
  getBuiltinModule(name: "bun:ffi"): BunFfi;
  getBuiltinModule(name: "node:fs"): NodeFs;
}

/** Makes Bun's backend. */
export function bunBackend(): Backend {
  const process = (globalThis as unknown as { process: BunProcess }).process;
  const ffi = process.getBuiltinModule("bun:ffi");
  return {
    environment: (name) => process.env[name],
    unreadable: () => undefined,
    isFile(path): boolean {
      try {
        return process.getBuiltinModule("node:fs").statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
      } catch {
        return false; // a part of the path is a file or must not be entered
      }
    },
    probe(path): { abi: number; version: number } {
      const library = ffi.dlopen(path, { rope_abi_version: { args: [], returns: "i32" }, rope_version: { args: [], returns: "i32" } });
      const { rope_abi_version, rope_version } = library.symbols as Record<string, () => number>;
      return { abi: rope_abi_version?.() ?? 0, version: rope_version?.() ?? 0 };
    },
    open(path): NativeLibrary {
      const table: Record<string, { args: string[]; returns: string }> = { rope_address: { args: ["buffer"], returns: "ptr" } };
      for (const symbol of symbols) table[symbol] = { args: ["buffer", "buffer"], returns: "i32" };
      const found = ffi.dlopen(path, table).symbols;
      const address = found["rope_address"] as (memory: Uint8Array) => number | null;
      const functions = {} as NativeFunctions;
      for (const symbol of symbols) functions[symbol] = found[symbol] as NativeFunction;
      return {
        functions,
        address: (memory) => address(memory) ?? 0,
        // On a thread of the runtime's own, which keeps the process alive.
        whenPosted: (wakeFd, _, wake) => process.getBuiltinModule("node:fs").read(wakeFd, new Uint8Array(8), 0, 8, null, wake),
      };
    },
    view: (address, bytes) => ffi.toArrayBuffer(address, 0, bytes),
    denied: () => undefined,
  };
}
