// Workers are realms of their own: their counters are, and what they hold goes when they end, however they end.
import { describe, expect, test } from "bun:test";
import { Device, Tensor } from "../../mod.ts";
import { usage } from "../support/usage.ts";

interface Answer {
  readonly sum: number;
  readonly liveTensors: number;
}

function start(): { worker: Worker; answer: Promise<Answer> } {
  const worker = new Worker(new URL("../support/realm_worker.ts", import.meta.url), { type: "module" });
  return { worker, answer: next(worker) };
}

function next(worker: Worker): Promise<Answer> {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }): void => resolve(data as Answer);
    worker.onerror = (event): void => reject(new Error(event.message));
  });
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

describe("a Worker", () => {
  test.each(["terminate", "close"] as const)("that ends by %s gives back what it held", async (how) => {
    using mine = Tensor.full([4], 1, { device: "cpu" });
    using stream = Device.open("cpu").createStream(); // a handle of this realm, which must stay
    const before = usage();
    const { worker, answer } = start();
    expect((await answer).sum).toBe(3000);
    expect(usage().handles).toBeGreaterThanOrEqual(before.handles + 16); // five streams, events and graphs, and the realm
    expect(usage().bytes).toBeGreaterThan(before.bytes + 2 ** 31);
    if (how === "terminate") worker.terminate();
    else worker.postMessage("close");
    await settled(before);
    stream.synchronizeBlocking();
    expect([...mine.readBlocking()]).toEqual([1, 1, 1, 1]);
    worker.terminate();
  });

  test("has counters and tensors of its own", async () => {
    const before = usage();
    const { liveTensors } = Device.open("cpu").memory();
    const { worker, answer } = start();
    expect((await answer).liveTensors).toBe(3);
    expect(Device.open("cpu").memory().liveTensors).toBe(liveTensors);
    const again = next(worker);
    worker.postMessage(5);
    expect(await again).toEqual({ sum: 5, liveTensors: 3 });
    worker.terminate();
    await settled(before);
  });

  test("several at once, while this realm works on", async () => {
    const before = usage();
    const all = [start(), start(), start()];
    for (let i = 0; i < 2000; i++) {
      using x = Tensor.full([16], i, { device: "cpu" });
      if (x.readBlocking()[15] !== i) throw new Error("wrong");
    }
    for (const { answer } of all) expect((await answer).sum).toBe(3000);
    for (const { worker } of all) worker.terminate();
    await settled(before);
  });
});
