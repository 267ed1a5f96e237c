// Deno's FFI behind the Backend interface. Everything but view() works with an --allow-ffi that names librope.so only.
import { type Backend, type NativeFunction, type NativeFunctions, symbols } from "./symbols.ts";

// Only what is used of Deno, so that the shipped source type-checks without its library.
interface DenoNamespace {
  dlopen(path: string, table: Record<string, { parameters: string[]; result: string }>): { symbols: Record<string, unknown> };
  env: { get(name: string): string | undefined };
  statSync(path: string): { isFile: boolean };
  permissions: { querySync(what: { name: string; variable?: string; path?: string }): { state: string } };
  UnsafePointer: { create(address: bigint): unknown };
  UnsafePointerView: { getArrayBuffer(pointer: unknown, bytes: number): ArrayBuffer };
}

/** Makes Deno's backend. */
export function denoBackend(): Backend {
  const deno = (globalThis as unknown as { Deno: DenoNamespace }).Deno;
  const granted = (name: string, detail: { variable?: string; path?: string }): boolean =>
    deno.permissions.querySync({ name, ...detail }).state === "granted";
  return {
    // Asked first, so that a missing permission never prompts for something optional.
    environment: (name) => granted("env", { variable: name }) ? deno.env.get(name) : undefined,
    unreadable: (name) => granted("env", { variable: name }) ? undefined : `Run deno with --allow-env=${name}.`,
    isFile(path): boolean | undefined {
      if (!granted("read", { path })) return undefined;
      try {
        return deno.statSync(path).isFile;
      } catch {
        return false;
      }
    },
    probe(path): { abi: number; version: number } {
      const library = deno.dlopen(path, {
        rope_abi_version: { parameters: [], result: "i32" },
        rope_version: { parameters: [], result: "i32" },
      });
      const { rope_abi_version, rope_version } = library.symbols as Record<string, () => number>;
      return { abi: rope_abi_version?.() ?? 0, version: rope_version?.() ?? 0 };
    },
    open(path): ReturnType<Backend["open"]> {
      const table: Record<string, { parameters: string[]; result: string }> = { rope_address: { parameters: ["buffer"], result: "u64" } };
      for (const symbol of symbols) table[symbol] = { parameters: ["buffer", "buffer"], result: "i32" };
      const found = deno.dlopen(path, table).symbols;
      const address = found["rope_address"] as (memory: Uint8Array) => bigint;
      const functions = {} as NativeFunctions;
      for (const symbol of symbols) functions[symbol] = found[symbol] as NativeFunction;
      return { functions, address: (memory) => Number(address(memory)) };
    },
    view: (address, bytes) => deno.UnsafePointerView.getArrayBuffer(deno.UnsafePointer.create(BigInt(address)), bytes),
    denied(error, path): string | undefined {
      const name = error instanceof Error ? error.name : "";
      if (name !== "NotCapable" && name !== "PermissionDenied") return undefined;
      return path === undefined ? "Run deno with --allow-ffi, for every path." : `Run deno with --allow-ffi=${path}, or with --allow-ffi.`;
    },
  };
}
