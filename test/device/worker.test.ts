// Workers are realms of their own: their counters are, and what they hold goes when they end, however they end. While a test waits for a
// Worker, the net may catch what earlier tests forgot here: the counters of this realm and of the process fall then by a little.
import { describe, expect, test } from "bun:test";
import { Tensor } from "../../mod.ts";
import { devices, open } from "../support/devices.ts";
import { collectGarbage } from "../support/runtime.ts";
import { usage } from "../support/usage.ts";

interface Answer {
  readonly sum: number;
  readonly liveTensors: number;
}

function start(device: string): { worker: Worker; answer: Promise<Answer> } {
  const worker = new Worker(new URL("../support/realm_worker.ts", import.meta.url), { type: "module" });
  const answer = next(worker);
  worker.postMessage(device);
  return { worker, answer };
}

function next(worker: Worker): Promise<Answer> {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }): void => resolve(data as Answer);
    worker.onerror = (event): void => reject(new Error(event.message));
  });
}

/** What the process holds when all garbage is collected, but for the few objects that a conservative collector may keep. */
async function settledUsage(): Promise<ReturnType<typeof usage>> {
  await collectGarbage();
  return usage();
}

/** Waits until the process holds no more than it held before; fails where that takes ten seconds. */
async function settled(before: ReturnType<typeof usage>): Promise<void> {
  for (let i = 0; i < 400; i++) {
    const now = usage();
    if (now.handles <= before.handles && now.bytes <= before.bytes) return;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  expect(usage()).toEqual(before);
}

describe.each(devices)("a Worker on %s", (name) => {
  const device = open(name);

  test.each(["terminate", "close"] as const)("that ends by %s gives back what it held", async (how) => {
    using mine = Tensor.full([4], 1, { device });
    using stream = device.createStream(); // a handle of this realm, which must stay
    expect([...mine.readBlocking()]).toEqual([1, 1, 1, 1]);
    const before = await settledUsage();
    const { worker, answer } = start(device.name);
    expect((await answer).sum).toBe(3000);
    expect(usage().handles).toBeGreaterThan(before.handles); // by 16: five streams, events and graphs, and the realm
    expect(usage().bytes).toBeGreaterThan(before.bytes + 2 ** 30); // by 2 GiB and a little
    if (how === "terminate") worker.terminate();
    else worker.postMessage("close");
    await settled(before);
    stream.synchronizeBlocking();
    expect([...mine.readBlocking()]).toEqual([1, 1, 1, 1]);
    worker.terminate();
  });

  test("has counters and tensors of its own", async () => {
    const before = await settledUsage();
    const { liveTensors } = device.memory();
    const { worker, answer } = start(device.name);
    expect((await answer).liveTensors).toBe(3);
    expect(device.memory().liveTensors).toBeLessThanOrEqual(liveTensors);
    const again = next(worker);
    worker.postMessage("again");
    expect(await again).toEqual({ sum: 3000, liveTensors: 3 });
    worker.terminate();
    await settled(before);
  });

  test("several at once, while this realm works on", async () => {
    const before = await settledUsage();
    const all = [1, 2, 3].map(() => start(device.name));
    for (let i = 0; i < 2000; i++) {
      using x = Tensor.full([16], i, { device });
      if (x.readBlocking()[15] !== i) throw new Error("wrong");
    }
    for (const { answer } of all) expect((await answer).sum).toBe(3000);
    for (const { worker } of all) worker.terminate();
    await settled(before);
  });
});
