// Foreign memory by its address: right where it is right, and every mistake that can be seen is refused without printing the address.
import { describe, expect, test } from "bun:test";
import { Device, RopeArgumentError, RopeError, Tensor } from "../../mod.ts";
import { notCounts, notObjects, notOptions } from "../support/coercion.ts";
import { collectGarbage, runtime } from "../support/runtime.ts";

const device = Device.open("cpu");
// deno-lint-ignore no-explicit-any
const loose = Tensor as any;

describe("Tensor.fromPointer", () => {
  test("sees and writes the memory, with strides", () => {
    using base = Tensor.arange(12, { dtype: "float32", device });
    using x = Tensor.fromPointer(base.pointer, [3, 4], { dtype: "float32", device: "cpu" });
    expect(x.readBlocking()).toEqual(base.readBlocking());
    using columns = Tensor.fromPointer(base.pointer + 4, [4, 3], { dtype: "float32", device, strides: [1, 4] });
    expect(columns.isContiguous).toBe(false);
    expect([...columns.select(0, 0).readBlocking()]).toEqual([1, 5, 9].slice(0, 3));
    using corner = Tensor.fromPointer(base.pointer, [1], { dtype: "float32", device });
    corner.write([-1]);
    expect(base.readBlocking()[0]).toBe(-1);
  });

  test("repeats elements with a stride of 0, which cannot be written", () => {
    using base = Tensor.arange(3, { device });
    using x = Tensor.fromPointer(base.pointer, [2, 3], { dtype: "int32", device, strides: [0, 1] });
    expect([...x.readBlocking()]).toEqual([0, 1, 2, 0, 1, 2]);
    expect(() => x.write([1, 2, 3, 4, 5, 6])).toThrow(RopeArgumentError);
    using flat = x.select(1, 1);
    expect([...flat.readBlocking()]).toEqual([1, 1]);
  });

  test("data is the memory, and is emptied on dispose", () => {
    using base = Tensor.arange(4, { device });
    const x = Tensor.fromPointer(base.pointer + 4, [3], { dtype: "int32", device });
    const { data } = x;
    expect([...data]).toEqual([1, 2, 3]);
    data[0] = 9;
    expect(base.readBlocking()[1]).toBe(9);
    const { bytesInUse } = device.memory();
    x.dispose();
    expect(data.length).toBe(0);
    expect(device.memory().bytesInUse).toBe(bytesInUse);
    expect([...base.readBlocking()]).toEqual([0, 9, 2, 3]);
  });

  test("keeps its owner as long as a tensor is on the memory", async () => {
    let collected = 0;
    const registry = new FinalizationRegistry(() => collected++);
    const views = Array.from({ length: 20 }, () => {
      const owner = { memory: new ArrayBuffer(64) };
      registry.register(owner, 0);
      using base = Tensor.from(new Float32Array(owner.memory), [16], { device });
      using x = Tensor.fromPointer(base.pointer, [16], { dtype: "float32", device, owner });
      return x.slice(0, 4);
    });
    await collectGarbage();
    expect(collected).toBe(0);
    for (const view of views) view.dispose();
    await collectGarbage(() => collected >= 15); // a few may stay: Bun's collector is conservative
    expect(collected).toBeGreaterThanOrEqual(15);
  });

  test("addresses that are no positive integers or not aligned", () => {
    const options = { dtype: "float64", device };
    for (const { value } of notCounts) {
      expect(() => loose.fromPointer(value, [1], options)).toThrow(/address must be a positive integer below 2\^53/);
    }
    expect(() => loose.fromPointer(0, [1], options)).toThrow(/address must be/);
    expect(() => loose.fromPointer(4096n, [1], options)).toThrow(/Convert it: Number\(address\)/);
    expect(() => loose.fromPointer(1234567891, [1], options)).toThrow(
      /address must be a multiple of the 8 bytes of float64, got one that is not/,
    );
  });

  test("no message holds the address", () => {
    const address = 123456789123;
    for (
      const bad of [
        () => loose.fromPointer(address, [1], { dtype: "float32", device }),
        () => loose.fromPointer(address + 0.5, [1], { dtype: "uint8", device }),
      ]
    ) {
      try {
        bad();
        throw new Error("nothing was thrown");
      } catch (error) {
        expect(error).toBeInstanceOf(RopeError);
        expect(String(error)).not.toContain("123456789");
      }
    }
  });

  test("dtype and device must be said; strides must be counts, one per axis", () => {
    expect(() => loose.fromPointer(4096, [1])).toThrow(/dtype must be one of/);
    expect(() => loose.fromPointer(4096, [1], { device })).toThrow(/dtype must be one of/);
    expect(() => loose.fromPointer(4096, [1], { dtype: "int32" })).toThrow(/device must be said/);
    for (const { value } of notOptions) expect(() => loose.fromPointer(4096, [1], value)).toThrow(/options must be an object/);
    const make = (strides: unknown) => (): unknown => loose.fromPointer(4096, [2], { dtype: "int32", device, strides });
    for (const { value } of notObjects.filter(({ value }) => value !== undefined && !(Array.isArray(value) && value.length === 1))) {
      expect(make(value)).toThrow(/strides must be an array of 1 counts of elements/);
    }
    for (const { value } of notCounts) expect(make([value])).toThrow(/strides\[0\] must be an integer of at least 0/);
    expect(make([2 ** 52])).toThrow(/strides must be of fewer than 2\^53 bytes/);
  });

  test.skipIf(runtime !== "bun")("memory of Bun's own FFI", () => {
    const mine = new Float32Array(new ArrayBuffer(16)).fill(3);
    const ffi = (globalThis as unknown as { process: { getBuiltinModule(name: string): { ptr(view: ArrayBufferView): number } } }).process
      .getBuiltinModule("bun:ffi");
    using x = Tensor.fromPointer(ffi.ptr(mine), [4], { dtype: "float32", device, owner: mine });
    expect([...x.readBlocking()]).toEqual([3, 3, 3, 3]);
  });
});
