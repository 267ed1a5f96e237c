// Waiting without blocking: the completion queue, its eventfd and the event loop. The CPU posts at once, a GPU when its work is done; the way is one.
import { describe, expect, test } from "bun:test";
import { RopeDisposedError, type RopeError } from "../../mod.ts";
import { deviceState } from "../../src/device/device.ts";
import { StreamState } from "../../src/device/stream_state.ts";
import { finished } from "../../src/device/waiting.ts";
import { devices, open } from "../support/devices.ts";
import { projectUrl, runProgram } from "../support/runtime.ts";
import { usage } from "../support/usage.ts";

describe.each(devices)("on %s", (name) => {
  const device = open(name);
  const { defaultStream } = deviceState(device);
  const wait = (): Promise<void> => finished("test", defaultStream, 0, "reported");

  test("one wait, many waits, waits in between", async () => {
    await wait();
    const order: number[] = [];
    await Promise.all(Array.from({ length: 1000 }, (_, i) => wait().then(() => order.push(i))));
    expect(order).toEqual(Array.from({ length: 1000 }, (_, i) => i));
    for (let i = 0; i < 20; i++) {
      await Promise.all([
        wait(),
        wait().then(wait),
        new Promise((resolve) => setTimeout(resolve, i % 3)).then(wait),
      ]);
    }
  });

  test("a wait resolves later, not at once", async () => {
    let resolved = false;
    const waiting = wait().then(() => resolved = true);
    await Promise.resolve();
    expect(resolved).toBe(false);
    await waiting;
  });

  test("what cannot be waited for rejects, and leaves nothing behind", async () => {
    const gone = new StreamState(deviceState(device), 12345);
    const error = await finished("test", gone, 0, "reported").catch((error: unknown) => error);
    expect(error).toBeInstanceOf(RopeDisposedError);
    expect([(error as RopeError).operation, (error as RopeError).argument]).toEqual(["test", "stream"]);
    await wait();
  });

  test("the process stays alive for a wait that nobody awaits, and ends by itself after it", async () => {
    const { stdout, stderr, code } = await runProgram(`
      import { Device, Tensor } from "${projectUrl("mod.ts")}";
      import { deviceState } from "${projectUrl("src/device/device.ts")}";
      import { finished } from "${projectUrl("src/device/waiting.ts")}";
      const device = Device.open("${device.name}");
      const x = Tensor.zeros([2 ** 22], { device });
      const y = Tensor.zeros([2 ** 22], { device });
      for (let i = 0; i < 100; i++) y.copyFrom(x);
      void finished("test", deviceState(device).defaultStream, 0, "reported").then(() => console.log("done"));
      void x.read().then((data) => console.log(data.length));
      console.log("the module has ended");`);
    expect(stderr).toBe("");
    expect(stdout.trim().split("\n").toSorted()).toEqual(["4194304", "done", "the module has ended"]);
    expect(code).toBe(0);
  });

  test("a process that ends while it waits ends", async () => {
    const { code, signal } = await runProgram(`
      import process from "node:process";
      import { Device } from "${projectUrl("mod.ts")}";
      import { deviceState } from "${projectUrl("src/device/device.ts")}";
      import { finished } from "${projectUrl("src/device/waiting.ts")}";
      void finished("test", deviceState(Device.open("${device.name}")).defaultStream, 0, "reported");
      process.exit(3);`);
    expect([code, signal]).toEqual([3, null]);
  });

  test("64 waits at once in each of two Workers, while timers tick here", async () => {
    const before = usage();
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    const workers = [1, 2].map(() => {
      const worker = new Worker(new URL("../support/waiting_worker.ts", import.meta.url), { type: "module" });
      const answer = new Promise((resolve, reject) => {
        worker.onmessage = ({ data }): void => resolve(data);
        worker.onerror = (event): void => reject(new Error(event.message));
      });
      worker.postMessage(device.name);
      return { worker, answer };
    });
    for (const { answer } of workers) expect(await answer).toEqual({ waits: 64, right: 8 });
    clearInterval(timer);
    expect(ticks).toBeGreaterThan(0);
    for (const { worker } of workers) worker.terminate();
    for (let i = 0; i < 400 && usage().handles > before.handles; i++) await new Promise((resolve) => setTimeout(resolve, 25));
    expect(usage().handles).toBeLessThanOrEqual(before.handles);
  });
});
