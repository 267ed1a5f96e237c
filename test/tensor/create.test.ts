// Making tensors: from host arrays and numbers, empty, zeros, full, arange, random, cat, and what each refuses.
import { describe, expect, test } from "bun:test";
import {
  Device,
  type DType,
  fromBfloat16,
  type HostArray,
  RopeArgumentError,
  RopeDisposedError,
  RopeOutOfMemoryError,
  Tensor,
  toBfloat16,
} from "../../mod.ts";
import { notCounts, notIntegers, notNumbers, notObjects, notOptions } from "../support/coercion.ts";
import { devices, liveChange, open } from "../support/devices.ts";
import { fenced } from "../support/fence.ts";
import { flat, plainArange, type PlainArray } from "../support/plain_array.ts";
import { seeded } from "../support/random.ts";
import { projectUrl, runProgram } from "../support/runtime.ts";

const arrays: readonly [DType, HostArray][] = [
  ["float64", new Float64Array([1.5, -2, 1e300])],
  ["float32", new Float32Array([1.5, -2, 1e30])],
  ["float16", new Float16Array([1.5, -2, 65504])],
  ["int64", new BigInt64Array([1n, -(2n ** 63n), 2n ** 63n - 1n])],
  ["int32", new Int32Array([1, -(2 ** 31), 2 ** 31 - 1])],
  ["uint8", new Uint8Array([1, 0, 255])],
];
const dtypes: readonly DType[] = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64", "int32", "uint8"];

// deno-lint-ignore no-explicit-any
const loose = Tensor as any;

describe.each(devices)("on %s", (name) => {
  const device = open(name);

  describe("Tensor.from", () => {
    test.each(arrays)("a typed array of %s says its dtype itself", (dtype, array) => {
      using x = Tensor.from(array, [3, 1], { device });
      expect(x.dtype).toBe(dtype);
      expect(x.shape).toEqual([3, 1]);
      expect(x.strides).toEqual([1, 1]);
      expect(x.readBlocking()).toEqual(array);
      expect(Object.getPrototypeOf(x.readBlocking())).toBe(Object.getPrototypeOf(array));
    });

    test("a Uint16Array is bfloat16 and a Uint8Array float8 where said", () => {
      using b = Tensor.from(new Uint16Array([0x3f80, 0xc000]), [2], { dtype: "bfloat16", device });
      expect([...fromBfloat16(b.readBlocking())]).toEqual([1, -2]);
      using f = Tensor.from(new Uint8Array([0x38, 0xc0]), [2], { dtype: "float8_e4m3fn", device });
      expect(f.dtype).toBe("float8_e4m3fn");
      using wide = f.to("float32");
      expect([...wide.readBlocking()]).toEqual([1, -2]);
    });

    test("numbers are float32 unless another dtype is said, and round to it", () => {
      using x = Tensor.from([0.1, -0, NaN], [3], { device });
      expect(x.dtype).toBe("float32");
      expect([...x.readBlocking()]).toEqual([Math.fround(0.1), -0, NaN]);
      using b = Tensor.from([1.00390625, 1.01171875], [2], { dtype: "bfloat16", device }); // both halfway: to even
      expect([...b.readBlocking()]).toEqual([0x3f80, 0x3f82]);
      using h = Tensor.from([1 + 2 ** -11, 65520], [2], { dtype: "float16", device });
      expect([...h.readBlocking()]).toEqual([1, Infinity]);
      using i = Tensor.from([1.9, -1.9, 1e20, NaN], [4], { dtype: "int64", device });
      expect([...i.readBlocking()]).toEqual([1n, -1n, 2n ** 63n - 1n, 0n]);
      using u = Tensor.from([300, -1, 7], [3], { dtype: "uint8", device });
      expect([...u.readBlocking()]).toEqual([255, 0, 7]);
    });

    test("rank 0 and empty tensors", () => {
      using scalar = Tensor.from([7], [], { device });
      expect([scalar.shape, scalar.size, scalar.byteLength, scalar.isContiguous]).toEqual([[], 1, 4, true]);
      expect([...scalar.readBlocking()]).toEqual([7]);
      for (const data of [[], new Float32Array(0)]) {
        using empty = Tensor.from(data, [3, 0, 2], { device });
        expect([empty.size, empty.byteLength, empty.isContiguous]).toEqual([0, 0, true]);
        expect(empty.readBlocking()).toEqual(new Float32Array(0));
      }
    });

    test("arrays of a SharedArrayBuffer and sub-arrays", () => {
      const shared = new Float32Array(new SharedArrayBuffer(32));
      shared.set([1, 2, 3, 4, 5, 6, 7, 8]);
      using x = Tensor.from(shared.subarray(1, 4), [3], { device });
      expect([...x.readBlocking()]).toEqual([2, 3, 4]);
    });

    test("a Buffer is a Uint8Array", () => {
      class Bytes extends Uint8Array {}
      using x = Tensor.from(new Bytes([1, 2]), [2], { device });
      expect([x.dtype, ...x.readBlocking()]).toEqual(["uint8", 1, 2]);
    });

    test.skipIf(device.kind !== "cpu")("on the CPU a typed array is viewed, not copied, and never freed", () => {
      const mine = new Float32Array(64).map((_, i) => i);
      const x = Tensor.from(mine.subarray(2, 6), [4], { device });
      expect(x.data.buffer).toBe(mine.buffer);
      expect(x.data.byteOffset).toBe(8);
      mine[2] = 100;
      expect(x.readBlocking()[0]).toBe(100);
      x.write([9, 8, 7, 6]);
      expect([...mine.subarray(1, 7)]).toEqual([1, 9, 8, 7, 6, 6]);
      const { data } = x;
      x.dispose();
      expect(data.length).toBe(4);
      expect(mine.length).toBe(64);
      using y = Tensor.from(mine, [64], { device });
      expect(y.data).toEqual(mine);
    });

    test.skipIf(device.kind !== "cpu")("small typed arrays, which Bun moves, are viewed where they end up", () => {
      for (let i = 0; i < 20_000; i++) {
        const mine = new Int32Array(4);
        const x = Tensor.from(mine, [4], { device });
        mine[3] = i;
        const seen = x.data[3];
        x.dispose();
        if (seen !== i) throw new Error(`call ${i} saw ${seen}`);
      }
      const mine = new Int32Array(4);
      using x = Tensor.from(mine, [4], { device });
      for (let i = 0; i < 3000; i++) {
        mine[0] = i;
        if (x.readBlocking()[0] !== i) throw new Error(`read ${i} was stale`);
      }
    });

    test("refuses other arrays, and says which it takes", () => {
      for (
        const data of [
          new Int8Array(2),
          new Uint32Array(2),
          new BigUint64Array(2),
          new Uint8ClampedArray(2),
          new DataView(new ArrayBuffer(2)),
        ]
      ) {
        expect(() => loose.from(data, [2])).toThrow(/data must be a Float64Array, .* or number\[\], got a/);
      }
      for (const { value } of notObjects.filter(({ value }) => !Array.isArray(value) && !ArrayBuffer.isView(value))) {
        expect(() => loose.from(value, [2])).toThrow(RopeArgumentError);
      }
    });

    test("refuses a dtype that is not the array's, and says how to convert", () => {
      expect(() => loose.from(new Float32Array(2), [2], { dtype: "float16" })).toThrow(/data must be a Float16Array .* \.to\("float16"\)/);
      expect(() => loose.from(new Uint16Array(2), [2])).toThrow(/dtype must be "bfloat16" where data is a Uint16Array/);
      expect(() => loose.from(new Uint16Array(2), [2], { dtype: "float16" })).toThrow(/Float16Array/);
      expect(() => loose.from(new Uint8Array(2), [2], { dtype: "int32" })).toThrow(/Int32Array/);
    });

    test("refuses nested arrays, holes and what is no number", () => {
      expect(() => loose.from([[1, 2], [3, 4]], [2])).toThrow(/data\[0\] must be a number, got an array of 2\. Nested arrays .*flat/);
      expect(() => loose.from(new Array(2), [2])).toThrow(/data\[0\] must be a number, got undefined/);
      for (const { value } of notNumbers) expect(() => loose.from([1, value], [2])).toThrow(/data\[1\] must be a number/);
    });

    test("refuses a length that is not the shape's", () => {
      expect(() => Tensor.from([1, 2, 3], [2])).toThrow("Tensor.from: data must be of 2 elements, as the shape [2] says, got 3 elements.");
      expect(() => Tensor.from(new Float32Array(0), [])).toThrow(RopeArgumentError);
    });

    test.skipIf(device.kind !== "cpu")("refuses resizable and detached buffers", () => {
      expect(() => Tensor.from(new Uint8Array(new ArrayBuffer(4, { maxByteLength: 8 })), [4], { device })).toThrow(/fixed size.*resizable/);
      const gone = new Uint8Array(0 + 4);
      gone.buffer.transfer();
      expect(() => Tensor.from(gone, [0], { device })).toThrow(/detached/);
    });
  });

  describe("shapes", () => {
    test.each(notCounts)("refuse $name as a length", ({ value }) => {
      expect(() => loose.empty([2, value])).toThrow(/^Tensor\.empty: shape\[1\] must be an integer of at least 0/);
    });

    test("are arrays of at most six counts", () => {
      for (const { value } of notObjects.filter(({ value }) => !Array.isArray(value))) {
        expect(() => loose.empty(value)).toThrow(/shape must be/);
      }
      expect(() => Tensor.empty([1, 1, 1, 1, 1, 1, 1])).toThrow(/shape must be an array of 0 to 6 counts, got 7 of them/);
      expect(() => loose.empty(8)).toThrow(/got 8\. A vector of 8 has the shape \[8\]\.$/);
      expect(() => loose.empty(new Int32Array([2]))).toThrow(
        "Tensor.empty: shape must be an array of counts, got an Int32Array of 1. Convert it: Array.from(shape).",
      );
      using six = Tensor.zeros([1, 2, 1, 2, 1, 2], { device });
      expect(six.size).toBe(8);
    });

    test("whose bytes no float64 counts are errors, also beside a 0", () => {
      for (const shape of [[2 ** 53 - 1], [2 ** 27, 2 ** 27], [2 ** 40, 2 ** 40, 0], [2 ** 51, 2 ** 2]]) {
        expect(() => Tensor.empty(shape)).toThrow(RopeArgumentError);
      }
    });

    test("are frozen, and not the caller's array", () => {
      const shape = [2, 3];
      using x = Tensor.zeros(shape, { device });
      shape[0] = 5;
      expect(x.shape).toEqual([2, 3]);
      expect(Object.isFrozen(x.shape) && Object.isFrozen(x.strides)).toBe(true);
      expect(x.shape).toBe(x.shape);
    });
  });

  describe("options", () => {
    test.each(notOptions)("refuse $name", ({ value }) => {
      for (const make of [() => loose.empty([1], value), () => loose.from([1], [1], value), () => loose.arange(1, value)]) {
        expect(make).toThrow(/options must be an object/);
      }
    });

    test("refuse unknown keys and name the known ones", () => {
      expect(() => loose.zeros([1], { dType: "int32" })).toThrow(
        'Tensor.zeros: options must be an object with the keys dtype, device, got the key "dType".',
      );
      using x = loose.zeros([1], { dType: undefined, dtype: undefined, device }) as Tensor;
      expect(x.dtype).toBe("float32");
    });

    test("refuse other dtypes and devices", () => {
      for (const dtype of ["float", "Float32", "", 3, null, {}, ["int32"], "toString", "__proto__"]) {
        expect(() => loose.zeros([1], { dtype })).toThrow(/dtype must be one of float64, float32/);
      }
      for (const bad of ["tpu", "", "CPU", "cuda", "cuda:", "cuda:-1", "cuda:x", "cuda:1.5", "cuda: 1", "cuda:01", 0, null, {}, [], NaN]) {
        expect(() => loose.zeros([1], { device: bad })).toThrow(/device must be a Device, "auto", "cpu" or "cuda:<number>"/);
      }
      expect(() => loose.zeros([1], { device: Object.create(Device.prototype) })).toThrow(RopeArgumentError);
    });
  });

  describe("empty, zeros and full", () => {
    test.each(dtypes)("of %s", (dtype) => {
      using e = Tensor.empty([2, 3], { dtype, device });
      expect([e.dtype, e.size, e.device]).toEqual([dtype, 6, device]);
      using z = Tensor.zeros([2, 3], { dtype, device });
      expect(new Uint8Array(z.readBlocking().buffer).every((byte) => byte === 0)).toBe(true);
      using f = Tensor.full([2, 3], 3, { dtype, device });
      using wide = f.to("float64");
      expect([...wide.readBlocking()]).toEqual([3, 3, 3, 3, 3, 3]);
      using none = Tensor.full([0], 3, { dtype, device });
      expect(none.readBlocking().length).toBe(0);
    });

    test("zeros overwrites what the memory held before", () => {
      Tensor.full([100], 7, { device }).dispose();
      using z = Tensor.zeros([100], { device });
      expect(z.readBlocking().every((x) => x === 0)).toBe(true);
    });

    test("full converts as `to` does: integers truncate and saturate, NaN gives 0", () => {
      using x = Tensor.full([1], -Infinity, { dtype: "float16", device });
      expect(x.readBlocking()[0]).toBe(-Infinity);
      using n = Tensor.full([1], NaN, { dtype: "float8_e4m3fn", device });
      expect(n.readBlocking()[0]).toBe(0x7f);
      using least = Tensor.full([1], -(2 ** 31), { dtype: "int32", device });
      expect(least.readBlocking()[0]).toBe(-(2 ** 31));
      for (const dtype of ["int64", "int32", "uint8"] as const) {
        for (
          const value of [1.9, -1.9, -0.5, NaN, Infinity, -Infinity, 255.9, 256, 2 ** 31, -(2 ** 31) - 1, 2 ** 53, 2 ** 60, 2 ** 63, -1e300]
        ) {
          using made = Tensor.full([3], value, { dtype, device });
          using double = Tensor.from([value, value, value], [3], { dtype: "float64", device });
          using converted = double.to(dtype);
          expect(made.readBlocking()).toEqual(converted.readBlocking());
        }
      }
      using most = Tensor.full([1], Infinity, { dtype: "int64", device });
      expect(most.readBlocking()[0]).toBe(2n ** 63n - 1n);
    });

    test.each(notNumbers)("full refuses $name", ({ value }) => {
      expect(() => loose.full([1], value)).toThrow(/value must be a number/);
      expect(() => loose.full([1], value, { dtype: "int32" })).toThrow(/value must be a number/);
    });
  });

  describe("arange", () => {
    test("counts", () => {
      using i = Tensor.arange(4, { device });
      expect([i.dtype, ...i.readBlocking()]).toEqual(["int32", 0, 1, 2, 3]);
      using f = Tensor.arange(3, { start: 0.5, step: -0.25, dtype: "float64", device });
      expect([...f.readBlocking()]).toEqual([0.5, 0.25, 0]);
      using big = Tensor.arange(3, { start: 2 ** 40, step: 2 ** 38, dtype: "int64", device });
      expect([...big.readBlocking()]).toEqual([2n ** 40n, 5n * 2n ** 38n, 6n * 2n ** 38n]);
      using none = Tensor.arange(0, { device });
      expect(none.shape).toEqual([0]);
    });

    test("converts as `to` does: integers truncate and saturate", () => {
      const made = (n: number, options: Parameters<typeof Tensor.arange>[1]): number[] => {
        using x = Tensor.arange(n, { ...options, device });
        return Array.from(x.readBlocking() as ArrayLike<number | bigint>, Number);
      };
      expect(made(5, { step: 0.5 })).toEqual([0, 0, 1, 1, 2]);
      expect(made(4, { start: -1.5, step: 1 })).toEqual([-1, 0, 0, 1]);
      expect(made(257, { dtype: "uint8" }).slice(-3)).toEqual([254, 255, 255]);
      expect(made(3, { start: -1, dtype: "uint8" })).toEqual([0, 0, 1]);
      expect(made(3, { start: 2 ** 31 - 2 })).toEqual([2 ** 31 - 2, 2 ** 31 - 1, 2 ** 31 - 1]);
      expect(made(2, { start: 2 ** 63, step: -(2 ** 62), dtype: "int64" })).toEqual([2 ** 63, 2 ** 62]);
    });

    test.each(notCounts)(
      "refuses $name as n",
      ({ value }) => expect(() => loose.arange(value)).toThrow(/n must be an integer of at least 0/),
    );
    test.each([
      ...notNumbers.filter(({ value }) => value !== undefined).map(({ value }) => [value] as [unknown]),
      [NaN] as [unknown],
      [Infinity] as [unknown],
    ])(
      "refuses %p as start and step",
      (value) => {
        expect(() => loose.arange(2, { start: value })).toThrow(/start must be a finite number/);
        expect(() => loose.arange(2, { step: value })).toThrow(/step must be a finite number/);
      },
    );
  });

  describe("random", () => {
    test("one seed gives the same numbers, another gives others", () => {
      using a = Tensor.random([4, 8], { seed: 5, device });
      using b = Tensor.random([32], { seed: 5, device });
      using c = Tensor.random([32], { seed: 6, device });
      expect(a.readBlocking()).toEqual(b.readBlocking());
      expect(c.readBlocking()).not.toEqual(b.readBlocking());
      using d = Tensor.random([32], { device });
      using e = Tensor.random([32], { device });
      expect(d.readBlocking()).not.toEqual(e.readBlocking());
    });

    test("is standard normal", () => {
      const n = 200_000;
      using x = Tensor.random([n], { seed: 1, dtype: "float64", device });
      const data = x.readBlocking();
      const moment = (power: number): number => data.reduce((sum, value) => sum + value ** power, 0) / n;
      expect(Math.abs(moment(1))).toBeLessThan(5 / Math.sqrt(n));
      expect(Math.abs(moment(2) - 1)).toBeLessThan(5 * Math.sqrt(2 / n));
      expect(Math.abs(moment(4) - 3)).toBeLessThan(5 * Math.sqrt(96 / n));
      expect(data.filter((value) => Math.abs(value) < 1).length / n).toBeCloseTo(0.6827, 2);
      let lag = 0;
      for (let i = 1; i < n; i++) lag += (data[i] ?? 0) * (data[i - 1] ?? 0);
      expect(Math.abs(lag / n)).toBeLessThan(5 / Math.sqrt(n));
    });

    test("every float dtype, no integer one", () => {
      for (const dtype of dtypes) {
        if (dtype.includes("int")) expect(() => Tensor.random([2], { dtype })).toThrow(/dtype must be a float dtype/);
        else Tensor.random([2], { dtype, device }).dispose();
      }
    });

    test.each([...notCounts, { name: "a string", value: "seed" }])("refuses $name as seed", ({ value }) => {
      if (value !== undefined) expect(() => loose.random([2], { seed: value })).toThrow(/seed must be an integer of at least 0/);
    });
  });

  describe("cat", () => {
    test(
      "joins along every axis, strided parts too",
      seeded(60, (random) => {
        const rank = random.integer(1, 6);
        const axis = random.integer(0, rank - 1);
        const shape = random.shape(rank, 0, 3);
        const dtype = random.pick(["float32", "int32", "uint8", "float64"] as const);
        const parts = Array.from({ length: random.integer(1, 4) }, (_, part) => {
          const plain = plainArange(shape.with(axis, random.integer(0, 3)));
          const fence = fenced(random, device, dtype, plain.shape);
          fence.tensor.write(flat(plain).map((x) => x % 60 + part * 60));
          return {
            fence,
            plain: { shape: plain.shape, at: (index: readonly number[]) => plain.at(index) % 60 + part * 60 } satisfies PlainArray,
          };
        });
        using whole = Tensor.cat(parts.map(({ fence }) => fence.tensor), axis - (random.integer(0, 1) * rank));
        const starts = parts.map((_, part) => parts.slice(0, part).reduce((sum, { plain }) => sum + (plain.shape[axis] ?? 0), 0));
        const total = parts.reduce((sum, { plain }) => sum + (plain.shape[axis] ?? 0), 0);
        const expected = flat({
          shape: shape.with(axis, total),
          at: (index) => {
            const place = index[axis] ?? 0;
            const part = starts.findLastIndex((start, i) => start <= place && (parts[i]?.plain.shape[axis] ?? 0) > place - start);
            return parts[part]?.plain.at(index.with(axis, place - (starts[part] ?? 0))) ?? NaN;
          },
        });
        expect(whole.shape).toEqual(shape.with(axis, total));
        expect(whole.isContiguous).toBe(true);
        expect([...whole.readBlocking()].map(Number)).toEqual(expected);
        for (const { fence } of parts) fence.dispose();
      }),
    );

    test("refuses other dtypes, shapes and axes, and leaks nothing", () => {
      using a = Tensor.zeros([2, 3], { device });
      using b = Tensor.zeros([2, 4], { device });
      using c = Tensor.zeros([2, 3], { dtype: "int32", device });
      using d = Tensor.zeros([2, 3, 1], { device });
      using e = Tensor.zeros([], { device });
      const gone = Tensor.zeros([2, 3], { device });
      gone.dispose();
      const change = liveChange(device, () => {
        expect(() => Tensor.cat([a, b], 0)).toThrow("Tensor.cat: tensors[1] must be of the shape [2, 3] but for axis 0, got [2, 4].");
        expect(() => Tensor.cat<DType>([a, c], 0)).toThrow(
          /tensors\[1\] must be float32 like tensors\[0\], got int32\. Convert it first: \.to\("float32"\)/,
        );
        expect(() => Tensor.cat([a, d], 0)).toThrow(/tensors\[1\] must be of the shape/);
        expect(() => Tensor.cat([e, e], 0)).toThrow(/^Tensor\.cat: a tensor of rank 0 has no axes\.$/);
        expect(() => Tensor.cat([a, gone], 0)).toThrow(RopeDisposedError);
        for (const { value } of notIntegers) expect(() => loose.cat([a, a], value)).toThrow(/axis must be an axis from -2 to 1/);
        for (const axis of [2, -3]) expect(() => Tensor.cat([a, a], axis)).toThrow(/axis must be an axis from -2 to 1/);
        for (const { value } of notObjects) expect(() => loose.cat(value, 0)).toThrow(/tensors/);
        for (const { value } of notObjects) expect(() => loose.cat([a, value], 0)).toThrow(/tensors\[1\] must be a Tensor/);
      });
      expect(change).toEqual({ bytesInUse: 0, liveTensors: 0 });
    });
  });

  test("failed calls leak nothing", () => {
    const change = liveChange(device, () => {
      expect(() => loose.full([4], "1", { dtype: "int32" })).toThrow();
      expect(() => Tensor.arange(300, { step: NaN })).toThrow();
      expect(() => Tensor.random([4], { seed: -1 })).toThrow();
      expect(() => loose.from([1, "2"], [2])).toThrow();
    });
    expect(change).toEqual({ bytesInUse: 0, liveTensors: 0 });
  });

  test("memory that is not there is an error with the numbers in it, and the pool stays usable", () => {
    using kept = Tensor.zeros([1000], { device });
    const before = device.memory();
    let thrown: unknown;
    try {
      Tensor.empty([2 ** 48], { dtype: "uint8", device });
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(RopeOutOfMemoryError);
    const error = thrown as RopeOutOfMemoryError;
    expect([error.code, error.operation, error.requested, error.inUse]).toEqual([
      "ROPE_OUT_OF_MEMORY",
      "Tensor.empty",
      2 ** 48,
      before.bytesInUse,
    ]);
    expect(error.free).toBeGreaterThan(0);
    expect(error.reserved).toBeGreaterThanOrEqual(before.bytesInUse);
    expect(device.memory().bytesInUse).toBe(before.bytesInUse);
    using next = Tensor.full([1000], 2, { device });
    expect(next.readBlocking()[999]).toBe(2);
    expect(kept.readBlocking()[999]).toBe(0);
  });

  test("the constructor is not for callers", () => {
    expect(() => new loose()).toThrow(/Tensor: the constructor is not for callers\. Use Tensor\.from/);
  });
});

test("a tensor in words", () => {
  using x = Tensor.zeros([2, 3], { device: "cpu" });
  expect(String(x)).toBe("Tensor(float32[2, 3], cpu)");
  x.dispose();
  expect(String(x)).toBe("Tensor(float32[2, 3], cpu, disposed)");
});

test("console.log says what a tensor is", async () => {
  const program = `import { Tensor } from "${projectUrl("mod.ts")}";
    using x = Tensor.zeros([2, 3], { device: "cpu" });
    console.log(x);
    console.log([x.select(0, 0)]);`;
  const { stdout, stderr } = await runProgram(program);
  expect([stdout.replaceAll(/\s+/g, " "), stderr]).toEqual(["Tensor(float32[2, 3], cpu) [ Tensor(float32[3], cpu) ] ", ""]);
});

test("dtypes are inferred by the types", () => {
  using a: Tensor<"float32"> = Tensor.from([1], [1]);
  using b: Tensor<"float16"> = Tensor.from([1], [1], { dtype: "float16" });
  using c: Tensor<"int64"> = Tensor.from(new BigInt64Array(1), [1]);
  using d: Tensor<"bfloat16"> = Tensor.from(toBfloat16([1]), [1], { dtype: "bfloat16" });
  using e: Tensor<"int32"> = Tensor.arange(1);
  using f: Tensor<"float32"> = e.to("float32");
  using g: Tensor<"float32"> = f.to("cpu");
  const anything: Tensor[] = [a, b, c, d, e, f, g];
  const halves: Uint16Array = d.readBlocking();
  expect([anything.length, halves.length]).toEqual([7, 1]);
});
