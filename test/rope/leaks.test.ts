// Nothing is lost: 100 000 calls leave the counters and the memory of the process where they were, and what nobody disposed of is caught.
import { describe, expect, test } from "bun:test";
import { applyRopeInplace, type Device, RotaryEmbedding, Tensor } from "../../mod.ts";
import { Block } from "../../src/native/block.ts";
import { layouts } from "../../src/native/layouts.ts";
import { faultOf } from "../support/devices.ts";
import { collectGarbage, residentBytes } from "../support/runtime.ts";
import { devices, errorOf, open, randomTensor } from "./support.ts";

/** Streams, events, graphs, frequencies and realms that C holds for the process. */
function liveHandles(): number {
  const block = new Block(layouts.usage_args, "rope_usage");
  block.call("test");
  return block.getU64(layouts.usage_args.handles);
}

describe.each(devices)("leaks on %s", (name) => {
  const device: Device = open(name);

  test("100 000 forward calls: live bytes, live tensors and resident memory stay", async () => {
    using rope = new RotaryEmbedding({ dim: 64, device });
    using q = randomTensor([4, 8, 64], "float16", device, 1);
    using k = randomTensor([4, 2, 64], "float16", device, 2);
    const run = (calls: number): void => {
      for (let i = 0; i < calls; ++i) {
        const [a, b] = i % 2 === 0 ? rope.forward(q, k, { offset: i }) : rope.forward(q, k, { positions: [i, i + 1, -1, i + 3] });
        a.dispose();
        b.dispose();
      }
    };
    run(20_000);
    await collectGarbage();
    const before = device.memory();
    // The heap of the engine settles in the first rounds; a leak grows in every one.
    let growth = Infinity;
    for (let round = 0; round < 30 && growth >= 16 * 2 ** 20; ++round) {
      const resident = residentBytes();
      run(100_000);
      await collectGarbage();
      growth = residentBytes() - resident;
    }
    const after = device.memory();
    // Less where the net has caught what another test forgot.
    expect(after.bytesInUse).toBeLessThanOrEqual(before.bytesInUse);
    expect(after.liveTensors).toBeLessThanOrEqual(before.liveTensors);
    expect(after.driverAllocations).toBe(before.driverAllocations);
    expect(after.bytesReserved).toBeLessThanOrEqual(before.bytesReserved);
    expect(growth).toBeLessThan(16 * 2 ** 20);
  }, 120_000);

  test("calls that throw leave nothing either", async () => {
    using rope = new RotaryEmbedding({ dim: 64, device });
    using q = randomTensor([4, 8, 64], "float16", device, 1);
    await collectGarbage();
    const before = device.memory();
    for (let i = 0; i < 2000; ++i) {
      faultOf(device, () => rope.forward(q, null, { positions: [1, 2, 3, 2 ** 40] })[0].dispose());
      errorOf(() => rope.forward(q, null, { positions: [1, 2, 3, 4], seqLen: 5 }));
      errorOf(() => rope.forward(q, null, { indptr: [0, 4], offsets: [1, 2, 3] }));
      faultOf(device, () => {
        const { cos, sin } = rope.cosSin([2 ** 40]);
        cos.dispose();
        sin.dispose();
      });
    }
    const after = device.memory();
    expect(after.bytesInUse).toBeLessThanOrEqual(before.bytesInUse);
    expect(after.liveTensors).toBeLessThanOrEqual(before.liveTensors);
  });

  test("results that nobody disposed of are caught", async () => {
    using rope = new RotaryEmbedding({ dim: 64, device });
    using q = randomTensor([4, 8, 64], "float16", device, 1);
    await collectGarbage();
    const before = device.memory();
    const forget = (): void => {
      for (let i = 0; i < 500; ++i) rope.forward(q, null, { offset: i });
    };
    forget();
    expect(device.memory().liveTensors).toBeGreaterThan(before.liveTensors);
    // A conservative collector may keep a few.
    await collectGarbage(() => device.memory().liveTensors <= before.liveTensors + 5);
    expect(device.memory().liveTensors).toBeLessThanOrEqual(before.liveTensors + 5);
  });

  test("embeddings that nobody disposed of are caught; disposed ones leave at once", async () => {
    await collectGarbage();
    const before = liveHandles();
    for (let i = 0; i < 100; ++i) new RotaryEmbedding({ dim: 64, base: 1000 + i, device }).dispose();
    expect(liveHandles()).toBeLessThanOrEqual(before); // less where a Worker of another test has just ended
    const forget = (): void => {
      for (let i = 0; i < 200; ++i) new RotaryEmbedding({ dim: 64, base: 1000 + i, device });
    };
    forget();
    expect(liveHandles()).toBeGreaterThan(before);
    await collectGarbage(() => liveHandles() <= before + 5);
    expect(liveHandles()).toBeLessThanOrEqual(before + 5);
  });

  test("functional calls keep few rules, and give up the oldest", () => {
    using q = Tensor.zeros([1, 1, 8], { device });
    const before = liveHandles();
    for (let i = 0; i < 1000; ++i) applyRopeInplace(q, null, { ropeTheta: 10_000 + i });
    expect(liveHandles() - before).toBeLessThanOrEqual(64);
    for (let i = 0; i < 1000; ++i) applyRopeInplace(q, null, { ropeTheta: 10_000 + i % 2 });
    expect(liveHandles() - before).toBeLessThanOrEqual(64);
  });
});
