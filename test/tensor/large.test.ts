// Tensors beyond 2 GiB, whose memory the C library allocates. Only a few pages of them are ever touched.
import { describe, expect, test } from "bun:test";
import { Device, RopeArgumentError, Tensor } from "../../mod.ts";
import { runtime } from "../support/runtime.ts";

const device = Device.open("cpu");
const size = 2 ** 31 + 4096;

describe("tensors beyond 2 GiB", () => {
  test("are read and written at both ends, counted, and given back at once", () => {
    const before = device.memory();
    {
      using x = Tensor.empty([size], { dtype: "uint8", device });
      expect(device.memory().bytesInUse).toBe(before.bytesInUse + size);
      expect(device.memory().bytesReserved).toBe(before.bytesReserved + size);
      using head = x.slice(0, 0, 4);
      using tail = x.slice(0, -4);
      head.write([1, 2, 3, 4]);
      tail.write([5, 6, 7, 8]);
      expect([...head.readBlocking(), ...tail.readBlocking()]).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
      using ends = Tensor.cat([head, tail], 0);
      expect([...ends.readBlocking()]).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
      using grid = x.reshape([2, -1]);
      using last = grid.select(1, -1);
      expect([...last.readBlocking()].slice(1)).toEqual([8]);
    }
    expect(device.memory().bytesInUse).toBe(before.bytesInUse);
    expect(device.memory().bytesReserved).toBeLessThan(before.bytesReserved + 4096); // the small ones are the pool's to keep
  });

  test("data is a view, emptied on dispose", () => {
    const x = Tensor.empty([size], { dtype: "uint8", device });
    using tail = x.slice(0, -3);
    tail.write([7, 8, 9]);
    const { data } = x;
    expect([data.length, ...data.subarray(-3)]).toEqual([size, 7, 8, 9]);
    const part = tail.data;
    part[0] = 1;
    expect(data[size - 3]).toBe(1);
    x.dispose();
    expect(data.length).toBe(size); // the slice still holds the memory
    tail.dispose();
    expect([data.length, part.length]).toEqual([0, 0]);
  });

  test.skipIf(runtime !== "bun")("data beyond what Bun's ArrayBuffer can be is an error that says so", () => {
    using x = Tensor.empty([5 * 2 ** 30], { dtype: "uint8", device });
    expect(() => x.data).toThrow(RopeArgumentError);
    expect(() => x.data).toThrow(/no larger than an ArrayBuffer can be, got 5368709120 bytes\. Take the data of slices/);
    expect(() => x.readBlocking()).toThrow(/Read it in slices/);
    using tail = x.slice(0, -1);
    tail.data[0] = 3;
    expect([...tail.readBlocking()]).toEqual([3]);
  });
});
