// The CPU's pool: size classes, alignment, reuse, trimming, and storages that know their streams.
import { describe, expect, test } from "bun:test";
import { Device, Tensor } from "../../mod.ts";
import { deviceState } from "../../src/device/device.ts";
import { classBytes, CpuPool, sizeClass } from "../../src/device/pool.ts";
import type { Storage } from "../../src/device/storage.ts";
import { access } from "../../src/tensor/descriptors.ts";
import { Random } from "../support/random.ts";

const device = Device.open("cpu");

describe("size classes", () => {
  test("hold what is asked for and waste at most a fifth, from 1 byte to 2 GiB", () => {
    const random = new Random(3);
    const sizes = [1, 63, 64, 65, 80, 81, 96, 128, 129, 2 ** 31 - 1, 2 ** 31];
    for (let i = 0; i < 5000; i++) sizes.push(random.integer(1, 2 ** random.integer(1, 31)));
    for (const bytes of sizes) {
      const index = sizeClass(bytes);
      expect(classBytes(index)).toBeGreaterThanOrEqual(bytes);
      if (index > 0) expect(classBytes(index - 1)).toBeLessThan(bytes);
      if (bytes > 64) expect(classBytes(index) - bytes).toBeLessThanOrEqual(classBytes(index) / 5);
    }
  });

  test("rise, and a class's own size is in it", () => {
    for (let index = 0; index <= 100; index++) {
      expect(sizeClass(classBytes(index))).toBe(index);
      expect(classBytes(index + 1)).toBeGreaterThan(classBytes(index));
      expect(classBytes(index) % 16).toBe(0);
    }
    expect(sizeClass(2 ** 31)).toBe(100);
    expect(sizeClass(0)).toBe(0);
  });
});

test("memory is aligned to 64 bytes", () => {
  for (const size of [0, 1, 5, 16, 17, 100, 1000, 4097, 300_000]) {
    using x = Tensor.empty([size], { device });
    expect(x.pointer % 64).toBe(0);
  }
});

test("one tensor after another of one class uses one buffer", () => {
  Tensor.empty([700], { device }).dispose();
  const { driverAllocations } = device.memory();
  for (let i = 0; i < 1000; i++) Tensor.empty([641 + i % 127], { device }).dispose();
  expect(device.memory().driverAllocations).toBe(driverAllocations);
});

test("trim drops free buffers only", () => {
  using kept = Tensor.full([1000], 6, { device });
  Tensor.empty([100_000], { device }).dispose();
  device.trim();
  const { bytesReserved, driverAllocations } = device.memory();
  expect(kept.readBlocking()[999]).toBe(6);
  using _again = Tensor.empty([100_000], { device });
  expect(device.memory().driverAllocations).toBe(driverAllocations + 1);
  expect(device.memory().bytesReserved).toBeGreaterThan(bytesReserved);
});

test("free memory is kept up to what is in use or a limit, whichever is more; what is more goes back", () => {
  const pool = new CpuPool(deviceState(device), 1024);
  const acquire = (bytes: number): Storage => pool.acquire(bytes, "test");
  const state = (): number[] => [pool.bytesInUse, pool.bytesReserved, pool.driverAllocations];
  const [a, b, c] = [acquire(512), acquire(512), acquire(512)] as const;
  expect(state()).toEqual([1536, 1536, 3]);
  for (const storage of [a, b, c]) pool.recycle(storage);
  expect(state()).toEqual([0, 1024, 3]); // the third would have been more than 1024 free
  expect(c.buffer).toBe(null);
  const again = [acquire(512), acquire(512), acquire(512)];
  expect(state()).toEqual([1536, 1536, 4]);
  const large = acquire(4096);
  for (const storage of again) pool.recycle(storage);
  expect(state()).toEqual([4096, 4096 + 1536, 5]); // no more than is in use
  pool.recycle(large);
  expect(state()).toEqual([0, 1536, 5]);
  pool.trim();
  expect(state()).toEqual([0, 0, 5]);
  pool.recycle(acquire(1000));
  expect(state()).toEqual([0, 1024, 6]); // trim has reset what counts as free
});

test("a peak does not stay with the process: beyond 512 MiB a buffer is given back when it is released", () => {
  device.trim();
  const { bytesReserved } = device.memory();
  Tensor.empty([2 ** 29], { dtype: "uint8", device }).dispose(); // 512 MiB, of which no page is touched
  expect(device.memory().bytesReserved).toBe(bytesReserved + 2 ** 29);
  Tensor.empty([2 ** 29 + 1], { dtype: "uint8", device }).dispose();
  expect(device.memory().bytesReserved).toBe(bytesReserved + 2 ** 29);
  device.trim();
  expect(device.memory().bytesReserved).toBe(bytesReserved);
});

test("a storage remembers the streams that use it until it is released", () => {
  using a = device.createStream();
  using b = device.createStream();
  const x = Tensor.zeros([4], { device });
  using y = Tensor.zeros([4], { device });
  const storage = access.storage(x);
  expect(storage.streams).toEqual([0]);
  x.copyFrom(y, { stream: a });
  y.copyFrom(x, { stream: b });
  y.copyFrom(x, { stream: b });
  using view = x.slice(0, 1);
  using part = y.slice(0, 1);
  part.copyFrom(view, { stream: a });
  expect([...storage.streams].sort((p, q) => p - q)).toEqual([0, a.handle, b.handle].sort((p, q) => p - q));
  expect(storage.streams.at(-1)).toBe(a.handle);
  x.dispose();
  expect(storage.streams.length).toBe(3);
  view.dispose();
  expect(storage.streams).toEqual([]);
});
