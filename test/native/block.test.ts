// Argument blocks, descriptors and the error record: what C reads must be what was written, and what it says must reach the caller.
import { describe, expect, test } from "bun:test";
import { Device, RopeArgumentError, RopeDisposedError, type RopeError, RopeFaultError, RopeOutOfMemoryError, Tensor } from "../../mod.ts";
import { checkInteger, describe as inWords } from "../../src/arguments.ts";
import { Block } from "../../src/native/block.ts";
import { enums, layouts } from "../../src/native/layouts.ts";
import { errorRecord, nativeError, publicName } from "../../src/native/status.ts";
import { copy, stateOf } from "../../src/tensor/operations.ts";
import { seeded } from "../support/random.ts";

const device = Device.open("cpu");

describe("Block", () => {
  test(
    "64-bit values up to 2^53 come back, and lie there as C reads them",
    seeded(2000, (random) => {
      const value = Math.floor(random.next() * 2 ** random.integer(0, 53));
      const block = new Block({ size: 32 }, "rope_usage");
      block.u64(8, value);
      expect(block.getU64(8)).toBe(value);
      block.i64(16, -value);
      const low = BigInt(block.getU32(16));
      const high = BigInt(block.getU32(20));
      expect(BigInt.asIntN(64, (high << 32n) | low)).toBe(-BigInt(value));
    }),
  );

  test("stores are where the offsets say and nowhere else", () => {
    const block = new Block({ size: 40 }, "rope_usage");
    block.u8(4, 0xab);
    block.u16(6, 0x1234);
    block.u32(8, 0xfedcba98);
    block.f64(16, -1.5);
    block.u64(24, Number.MAX_SAFE_INTEGER);
    expect([block.getU32(0), block.getU32(4), block.getU32(8), block.getU32(12)]).toEqual([40, 0x123400ab, 0xfedcba98, 0]);
    expect([block.getF64(16), block.getU64(24), block.getU64(32)]).toEqual([-1.5, Number.MAX_SAFE_INTEGER, 0]);
  });

  test("a call reads results back and throws with the public operation's name", () => {
    const block = new Block(layouts.usage_args, "rope_usage");
    block.call("usage");
    expect(Number.isSafeInteger(block.getU64(layouts.usage_args.handles))).toBe(true);
    const stream = new Block(layouts.stream_args, "rope_stream_synchronize");
    stream.u64(layouts.stream_args.stream, 12345);
    try {
      stream.call("someOperation");
      throw new Error("nothing was thrown");
    } catch (error) {
      expect(error).toBeInstanceOf(RopeDisposedError);
      expect([(error as RopeError).operation, (error as RopeError).argument]).toEqual(["someOperation", "stream"]);
    }
  });

  test("a disposed tensor's reference is recognised by C where nothing in TypeScript looked", () => {
    const block = new Block(layouts.copy_args, "rope_copy");
    using x = Tensor.zeros([2], { device });
    const gone = Tensor.zeros([2], { device });
    block.tensor(layouts.copy_args.source, gone);
    block.tensor(layouts.copy_args.target, x);
    gone.dispose();
    expect(() => block.call("copy")).toThrow(RopeDisposedError);
    using _next = Tensor.zeros([2], { device }); // has its descriptor now
    expect(() => block.call("copy")).toThrow(/copy: source must be a live tensor, got a disposed one/);
    block.tensor(layouts.copy_args.source, null);
    expect(() => block.call("copy")).toThrow(RopeArgumentError);
    copy("copy", x, x, stateOf(x).defaultStream);
  });
});

describe("nativeError", () => {
  const view = new DataView(errorRecord.buffer);
  const put = (offset: number, text: string): void => {
    errorRecord.set(new TextEncoder().encode(`${text}\0`), offset);
  };

  test("makes a sentence of the record's texts", () => {
    put(layouts.error.argument, "head_dim");
    put(layouts.error.expected, "a multiple of 2");
    put(layouts.error.actual, "3");
    put(layouts.error.advice, "Make it even.");
    const error = nativeError(enums.ARGUMENT, "applyRope");
    expect(error).toBeInstanceOf(RopeArgumentError);
    expect(error.message).toBe("applyRope: headDim must be a multiple of 2, got 3. Make it even.");
    expect([error.code, error.operation, error.argument, error.expected, error.actual, error.name])
      .toEqual(["ROPE_ARGUMENT", "applyRope", "headDim", "a multiple of 2", "3", "RopeArgumentError"]);
    expect(nativeError(enums.DISPOSED, "x").code).toBe("ROPE_DISPOSED");
    expect(nativeError(enums.DEVICE, "x").code).toBe("ROPE_DEVICE");
    expect(nativeError(enums.FATAL, "x").code).toBe("ROPE_FATAL");
    for (const status of [enums.INTERNAL, 99, -1]) expect(nativeError(status, "x").message).toMatch(/defect of librope/);
  });

  test("a text that fills its field has no end, and is still read", () => {
    errorRecord.fill(0x61, layouts.error.expected, layouts.error.actual);
    put(layouts.error.actual, "3");
    expect(nativeError(enums.ARGUMENT, "x").expected).toBe("a".repeat(layouts.error.actual - layouts.error.expected));
  });

  test("faults have the numbers of the record", () => {
    view.setUint32(layouts.error.fault + layouts.fault.code, enums.FAULT_POSITION, true);
    for (const [field, value] of [["request", 2n], ["index", 7n], ["value", -(2n ** 40n)], ["limit", 2n ** 38n]] as const) {
      view.setBigInt64(layouts.error.fault + layouts.fault[field], value, true);
    }
    put(layouts.error.operation, "rope_rotate");
    const error = nativeError(enums.FAULT, "applyRope") as RopeFaultError;
    expect(error).toBeInstanceOf(RopeFaultError);
    expect(error.fault).toEqual({ code: "position", operation: "applyRope", request: 2, index: 7, value: -(2 ** 40), limit: 2 ** 38 });
    expect(error.message).toContain("applyRope: the position -1099511627776 of token 7 in request 2 is beyond the limit of 274877906944;");
    expect(error.argument).toBe(undefined); // offset and offsets make positions too
    expect((nativeError(enums.FAULT, "Graph.launch") as RopeFaultError).fault.operation).toBe("rotate");
    put(layouts.error.operation, "rope_cos_sin");
    expect((nativeError(enums.FAULT, "Graph.launch") as RopeFaultError).fault.operation).toBe("cosSin");
    view.setUint32(layouts.error.fault + layouts.fault.code, enums.FAULT_INDPTR, true);
    expect(nativeError(enums.FAULT, "applyRope")).toMatchObject({ argument: "indptr", fault: { code: "indptr" } });
  });

  test("positions that int64 does not hold are told in words", () => {
    view.setUint32(layouts.error.fault + layouts.fault.code, enums.FAULT_POSITION, true);
    for (const value of [2n ** 63n - 1n, -(2n ** 63n)]) {
      view.setBigInt64(layouts.error.fault + layouts.fault.value, value, true);
      const error = nativeError(enums.FAULT, "applyRope") as RopeFaultError;
      expect(error.message).toBe(
        "applyRope: the position of token 7 in request 2 is beyond +-2^63 or infinite, where the limit is 274877906944; " +
          "its row has not been written.",
      );
      expect(error.fault.value).toBe(Number(value));
    }
  });

  test("what was disposed of comes with advice, C's own where it has one", () => {
    put(layouts.error.advice, "");
    expect(nativeError(enums.DISPOSED, "x").message).toMatch(/keep it alive until its last use\.$/);
    put(layouts.error.advice, "Make another.");
    expect(nativeError(enums.DISPOSED, "x").message).toMatch(/ Make another\.$/);
  });

  test("out of memory has the numbers", () => {
    view.setBigUint64(layouts.error.requested, 2n ** 50n, true);
    view.setBigUint64(layouts.error.available, 2n ** 33n, true);
    const error = nativeError(enums.OUT_OF_MEMORY, "x") as RopeOutOfMemoryError;
    expect(error).toBeInstanceOf(RopeOutOfMemoryError);
    expect([error.requested, error.free]).toEqual([2 ** 50, 2 ** 33]);
  });

  test("fields of C have their names of TypeScript", () => {
    expect(["q", "head_dim", "q_out", "k_out", "low_freq_factor", "axis_of_pair", "q_out2"].map((field) => publicName(field, "applyRope")))
      .toEqual(["q", "headDim", "out[0]", "out[1]", "lowFreqFactor", "axisOfPair", "qOut2"]);
  });
});

test("integers that cannot be are told the range, and 2^53 only where that is what they miss", () => {
  const told = (value: unknown, least?: number, most?: number): string => {
    try {
      return `took ${checkInteger("f", "n", value, least, most)}`;
    } catch (error) {
      return (error as Error).message;
    }
  };
  expect(told(Infinity)).toBe("f: n must be an integer, got Infinity.");
  expect(told(2.5, 0)).toBe("f: n must be an integer of at least 0, got 2.5.");
  expect(told(1e300, -2, 1)).toBe("f: n must be an integer from -2 to 1, got 1e+300.");
  expect(told(-(2 ** 60), 0)).toBe("f: n must be an integer of at least 0, got -1152921504606847000.");
  expect(told(2 ** 53, 0)).toBe("f: n must be an integer of at least 0 and below 2^53 in size, got 9007199254740992.");
  expect(told(-(2 ** 53))).toBe("f: n must be an integer and below 2^53 in size, got -9007199254740992.");
  expect(told(Symbol("s"), 0)).toBe("f: n must be an integer of at least 0, got a symbol.");
  expect(told(-0)).toBe("took 0");
});

test("values in words", () => {
  const words: [unknown, string][] = [
    ["a\nb", '"a\\nb"'],
    ["x".repeat(100), `"${"x".repeat(57)}..."`],
    [1.5, "1.5"],
    [-0, "-0"],
    [NaN, "NaN"],
    [undefined, "undefined"],
    [null, "null"],
    [12n, "the bigint 12n"],
    [Symbol("s"), "a symbol"],
    [() => 1, "a function"],
    [[1, 2], "an array of 2"],
    [new Uint8Array(3), "a Uint8Array of 3"],
    [new Int8Array(3), "an Int8Array of 3"],
    [new Map(), "a Map"],
    [{}, "an object"],
    [Object.create(null), "an object"],
    [new DataView(new ArrayBuffer(1)), "a DataView"],
  ];
  for (const [value, text] of words) expect(inWords(value)).toBe(text);
});

test("descriptors of many tensors are apart, and each says what its tensor is", () => {
  const tensors = Array.from({ length: 1500 }, (_, i) => Tensor.full([1 + i % 3], i, { dtype: "int32", device })); // several slabs
  for (const [i, tensor] of tensors.entries()) if (tensor.readBlocking()[0] !== i) throw new Error(`tensor ${i} is another`);
  for (const tensor of tensors) tensor.dispose();
});
