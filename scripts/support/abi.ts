// Asks the built library for its layouts, through bun:ffi and without the project's own src/native, which is made from the answer.
import process from "node:process";
import { library } from "./native.ts";
import { ScriptError } from "./process.ts";

/** What rope_abi() reports. */
export interface Abi {
  readonly structs: Readonly<Record<string, Struct>>;
  readonly constants: Readonly<Record<string, number>>;
}

/** In bytes. */
export interface Struct {
  readonly size: number;
  readonly fields: Readonly<Record<string, { readonly offset: number; readonly size: number }>>;
}

// The part of bun:ffi that is used here.
interface Ffi {
  dlopen(path: string, symbols: object): {
    readonly symbols: {
      rope_address(memory: Uint8Array): bigint;
      rope_abi(args: Uint8Array, error: Uint8Array): number;
    };
  };
}

// rope_abi_args: size 0, reserved 4, text 8, capacity 16, length 24. Written here by hand, the one time that it cannot be looked up.
const blockSize = 32;

/** Loads build/librope.so and reads rope_abi(). */
export function readAbi(): Abi {
  const { dlopen } = process.getBuiltinModule("bun:ffi") as unknown as Ffi;
  const { symbols } = dlopen(library, {
    rope_address: { args: ["buffer"], returns: "u64" },
    rope_abi: { args: ["buffer", "buffer"], returns: "i32" },
  });
  const error = new Uint8Array(new ArrayBuffer(1024));
  new DataView(error.buffer).setUint32(0, error.length, true);
  const block = new DataView(new ArrayBuffer(blockSize));
  block.setUint32(0, blockSize, true);

  // Once to learn the length, once for the text.
  let text = new Uint8Array(new ArrayBuffer(0));
  for (let round = 0; round < 2; ++round) {
    if (text.length > 0) block.setBigUint64(8, symbols.rope_address(text), true);
    block.setBigUint64(16, BigInt(text.length), true);
    const status = symbols.rope_abi(new Uint8Array(block.buffer), error);
    const printed = new TextDecoder().decode(error).replace(/[^ -~]+/g, " ");
    if (status !== 0) throw new ScriptError(`rope_abi failed with status ${status}: ${printed}`);
    if (round === 0) text = new Uint8Array(new ArrayBuffer(Number(block.getBigUint64(24, true))));
  }
  return JSON.parse(new TextDecoder().decode(text)) as Abi;
}
