// Data in and out: data, read, readBlocking, toFloat32, write, copyFrom, to, clone, contiguous.
import { describe, expect, test } from "bun:test";
import { type DType, RopeArgumentError, RopeDeviceError, RopeDisposedError, Tensor } from "../../mod.ts";
import { notNumbers, notObjects, notOptions } from "../support/coercion.ts";
import { devices, liveChange, open } from "../support/devices.ts";
import { bytesOf, fenced, poisoned } from "../support/fence.ts";
import { seeded } from "../support/random.ts";

const dtypes: readonly DType[] = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64", "int32", "uint8"];
// deno-lint-ignore no-explicit-any
type Loose = any;

describe.each(devices)("on %s", (name) => {
  const device = open(name);
  const onCpu = device.kind === "cpu";

  describe("data", () => {
    test.skipIf(!onCpu)("is the memory itself, one object, of views the sub-array", () => {
      using x = Tensor.zeros([4, 3], { device });
      x.data[5] = 7;
      expect(x.readBlocking()[5]).toBe(7);
      expect(x.data).toBe(x.data);
      expect(x.data.length).toBe(12);
      using row = x.select(0, 1);
      expect([...row.data]).toEqual([0, 0, 7]);
      row.data[0] = 4;
      expect(x.data[3]).toBe(4);
      using scalar = row.select(0, 2);
      expect([...scalar.data]).toEqual([7]);
      using none = x.slice(1, 3);
      expect(none.data.length).toBe(0);
    });

    test.skipIf(!onCpu)("has the array of its dtype", () => {
      const names = [
        "Float64Array",
        "Float32Array",
        "Float16Array",
        "Uint16Array",
        "Uint8Array",
        "Uint8Array",
        "BigInt64Array",
        "Int32Array",
        "Uint8Array",
      ];
      for (const [i, dtype] of dtypes.entries()) {
        using x = Tensor.zeros([2], { dtype, device });
        expect(x.data[Symbol.toStringTag] as string).toBe(names[i] ?? "");
      }
    });

    test.skipIf(onCpu)("of a tensor on a GPU is an error that advises read()", () => {
      using x = Tensor.zeros([4], { device });
      expect(() => x.data).toThrow(RopeDeviceError);
      expect(() => x.data).toThrow(
        `Tensor.data: this tensor must be one on the CPU, got one on ${device.name}. Use read() or readBlocking()`,
      );
    });

    test.skipIf(!onCpu)("of a strided view is an error that advises read()", () => {
      using x = Tensor.zeros([4, 3], { device });
      using column = x.select(1, 0);
      expect(() => column.data).toThrow(
        "Tensor.data: this tensor must be contiguous, got a view with strides [3]. Use read() or readBlocking() for a copy of it.",
      );
    });

    test.skipIf(!onCpu)("of a released tensor is empty, even where the memory is used again", () => {
      const x = Tensor.full([1000], 1, { device });
      const { data } = x;
      const view = x.slice(0, 10);
      x.dispose();
      expect(data.length).toBe(1000); // the view still holds the memory
      view.dispose();
      expect(data.length).toBe(0);
      expect(data[0]).toBeUndefined();
      const { pointer } = x.disposed ? Tensor.full([1000], 2, { device }) : x;
      expect(pointer % 64).toBe(0);
      expect(data.length).toBe(0);
    });

    test.skipIf(!onCpu)("memory that had been handed out is reused", () => {
      Tensor.zeros([5000], { device }).dispose();
      const allocations = device.memory().driverAllocations;
      for (let i = 0; i < 100; i++) {
        using x = Tensor.empty([5000], { device });
        expect(x.pointer % 64).toBe(0);
        x.data[4999] = i;
        expect(x.readBlocking()[4999]).toBe(i);
      }
      expect(device.memory().driverAllocations).toBe(allocations);
    });
  });

  describe("read and write", () => {
    test(
      "write then read gives the same bits, of strided views too, and touches nothing else",
      seeded(100, async (random) => {
        const dtype = random.pick(dtypes);
        const shape = random.shape(random.integer(0, 6), 0, 4);
        using fence = fenced(random, device, dtype, shape);
        using source = poisoned(random, device, dtype, shape);
        const array = source.readBlocking();
        expect(fence.tensor.write(array)).toBe(fence.tensor);
        expect(bytesOf(fence.tensor)).toEqual(bytesOf(source));
        const read = await fence.tensor.read();
        expect(new Uint8Array(read.buffer, read.byteOffset, read.byteLength)).toEqual(bytesOf(source));
        fence.intact();
      }),
    );

    test("reads are copies", () => {
      using x = Tensor.zeros([3], { device });
      const first = x.readBlocking();
      first[0] = 5;
      x.write([1, 2, 3]);
      expect([...first]).toEqual([5, 0, 0]);
    });

    test("write converts numbers as Tensor.from does", () => {
      using x = Tensor.zeros([2, 2], { dtype: "bfloat16", device });
      using t = x.transpose(0, 1);
      t.write([1, 2, 3, 1.00390625]);
      expect([...x.readBlocking()]).toEqual([0x3f80, 0x4040, 0x4000, 0x3f80]);
    });

    test("toFloat32 converts, row-major", async () => {
      using x = Tensor.from([1, 2, 3, 4, 5, 6], [2, 3], { dtype: "float16", device });
      using t = x.transpose(0, 1);
      expect(await t.toFloat32()).toEqual(new Float32Array([1, 4, 2, 5, 3, 6]));
    });

    test("writing a tensor's own data into it changes nothing; a shifted part of it is an error", () => {
      using x = Tensor.from([1, 2, 3, 4], [4], { device });
      if (!onCpu) return;
      x.write(x.data);
      expect([...x.data]).toEqual([1, 2, 3, 4]);
      using head = x.slice(0, 0, 3);
      expect(() => head.write(x.data.subarray(1))).toThrow(RopeArgumentError);
      expect([...x.data]).toEqual([1, 2, 3, 4]);
    });

    test("write refuses other lengths, arrays and elements, and leaks nothing", () => {
      using x = Tensor.zeros([2], { device });
      const change = liveChange(device, () => {
        expect(() => x.write([1])).toThrow(/data must be of 2 elements, as the shape \[2\] says, got 1 elements/);
        expect(() => x.write(new Float64Array(2))).toThrow(
          /data must be a Float32Array or number\[\] for dtype float32, got a Float64Array of 2/,
        );
        expect(() => x.write(new Uint16Array(2))).toThrow(RopeArgumentError);
        for (const { value } of notObjects.filter(({ value }) => !ArrayBuffer.isView(value))) {
          expect(() => (x as Loose).write(value)).toThrow(RopeArgumentError);
        }
        for (const { value } of notNumbers) expect(() => (x as Loose).write([1, value])).toThrow(/data\[1\] must be a number/);
      });
      expect(change).toEqual({ bytesInUse: 0, liveTensors: 0 });
      expect([...x.readBlocking()]).toEqual([0, 0]);
    });
  });

  describe("copyFrom", () => {
    test(
      "between strided tensors of one dtype copies the bits and nothing else",
      seeded(60, (random) => {
        const dtype = random.pick(dtypes);
        const shape = random.shape(random.integer(0, 5), 0, 5);
        using from = fenced(random, device, dtype, shape);
        using to = fenced(random, device, dtype, shape);
        expect(to.tensor.copyFrom(from.tensor)).toBe(to.tensor);
        expect(bytesOf(to.tensor)).toEqual(bytesOf(from.tensor));
        from.intact();
        to.intact();
      }),
    );

    test("converts, and takes a stream", () => {
      using stream = device.createStream();
      using x = Tensor.from([1.5, -300], [2], { device });
      using y = Tensor.zeros([2], { dtype: "uint8", device });
      y.copyFrom(x, { stream });
      stream.synchronizeBlocking();
      expect([...y.readBlocking()]).toEqual([1, 0]);
    });

    test("broadcasts nothing", () => {
      using x = Tensor.zeros([1, 3], { device });
      using y = Tensor.zeros([2, 3], { device });
      expect(() => y.copyFrom(x)).toThrow(
        "Tensor.copyFrom: source must be of the shape [2, 3] of the tensor it is copied to, got [1, 3]. Nothing is broadcast.",
      );
    });

    test("of itself is nothing; sharing some elements otherwise is an error", () => {
      using x = Tensor.arange(6, { device });
      x.copyFrom(x);
      using same = x.slice(0, 0);
      x.copyFrom(same);
      using head = x.slice(0, 0, 4);
      using tail = x.slice(0, 2);
      expect(() => head.copyFrom(tail)).toThrow(/shares elements.*clone\(\)/);
      using r = x.reshape([3, 2]);
      using even = r.select(1, 0);
      using odd = r.select(1, 1);
      even.copyFrom(odd);
      expect([...x.readBlocking()]).toEqual([1, 1, 3, 3, 5, 5]);
    });

    test("refuses what is no tensor, no options, no stream", () => {
      using x = Tensor.zeros([2], { device });
      using stream = device.createStream();
      for (const { value } of notObjects) expect(() => (x as Loose).copyFrom(value)).toThrow(/source must be a Tensor/);
      for (const { value } of notOptions) expect(() => (x as Loose).copyFrom(x, value)).toThrow(/options must be an object/);
      for (const { value } of notObjects.filter(({ value }) => value !== undefined)) {
        expect(() => (x as Loose).copyFrom(x, { stream: value })).toThrow(/stream must be a Stream/);
      }
      expect(() => (x as Loose).copyFrom(x, { streams: stream })).toThrow(/keys stream, got the key "streams"/);
      stream.dispose();
      expect(() => x.copyFrom(x, { stream })).toThrow(RopeDisposedError);
      const gone = x.clone();
      gone.dispose();
      expect(() => x.copyFrom(gone)).toThrow(/source must be live, got a tensor that was disposed of/);
    });
  });

  describe("to, clone and contiguous", () => {
    test("are contiguous; to and clone are copies", () => {
      using x = Tensor.arange(6, { device });
      using t = x.reshape([2, 3]).transpose(0, 1);
      for (const copy of [t.clone(), t.to("int32"), t.to(device), t.to(name), t.contiguous()]) {
        expect([copy.dtype, copy.shape, copy.isContiguous, copy.device]).toEqual(["int32", [3, 2], true, device]);
        expect([...copy.readBlocking()]).toEqual([0, 3, 1, 4, 2, 5]);
        expect(copy.pointer).not.toBe(x.pointer);
        copy.dispose();
      }
      using wide = t.to("int64");
      expect([...wide.readBlocking()]).toEqual([0n, 3n, 1n, 4n, 2n, 5n]);
      using same = x.contiguous(); // a view, as nothing has to be copied
      expect(same.pointer).toBe(x.pointer);
      using copied = x.to("int32");
      expect(copied.pointer).not.toBe(x.pointer);
    });

    test("to refuses what is neither a device nor a dtype", () => {
      using x = Tensor.zeros([1], { device });
      for (const target of ["tpu", "float", "", null, undefined, 1, {}, ["int32"], "constructor"]) {
        expect(() => (x as Loose).to(target)).toThrow(/target must be a Device, its name, or one of float64, /);
      }
    });
  });

  test("reads and writes leak nothing", async () => {
    const reads: Promise<unknown>[] = [];
    const change = liveChange(device, () => {
      using x = Tensor.from([1, 2, 3, 4], [2, 2], { dtype: "float16", device });
      using t = x.transpose(0, 1);
      reads.push(t.read(), t.toFloat32());
      t.readBlocking();
      t.write([1, 2, 3, 4]);
      t.write(new Float16Array(4));
    });
    expect(change).toEqual({ bytesInUse: 0, liveTensors: 0 });
    await Promise.all(reads);
  });
});
