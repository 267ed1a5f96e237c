// Streams and events: order, waiting, time between, and what is refused.
import { describe, expect, test } from "bun:test";
import { type DeviceEvent, RopeArgumentError, RopeDisposedError, Stream, Tensor } from "../../mod.ts";
import { notObjects } from "../support/coercion.ts";
import { devices, open } from "../support/devices.ts";
import { usage } from "../support/usage.ts";

// deno-lint-ignore no-explicit-any
type Loose = any;

describe.each(devices)("on %s", (name) => {
  const device = open(name);

  test("streams have handles of their own and run what they are given", async () => {
    using a = device.createStream();
    using b = device.createStream();
    expect(new Set([0, a.handle, b.handle]).size).toBe(3);
    expect(Number.isSafeInteger(a.handle)).toBe(true);
    using x = Tensor.full([1000], 3, { device });
    using y = Tensor.zeros([1000], { device });
    using z = Tensor.zeros([1000], { device });
    y.copyFrom(x, { stream: a });
    using done = a.record();
    b.wait(done);
    z.copyFrom(y, { stream: b });
    await b.synchronize();
    expect(z.readBlocking().every((value) => value === 3)).toBe(true);
  });

  test("events measure time from an earlier one", async () => {
    using first = device.stream.record();
    await new Promise((resolve) => setTimeout(resolve, 15));
    using second = device.stream.record();
    await second.synchronize();
    const elapsed = await second.elapsedMs(first);
    expect(elapsed).toBeGreaterThan(10);
    expect(elapsed).toBeLessThan(5000);
    expect(await first.elapsedMs(first)).toBe(0);
  });

  test("dispose is harmless when repeated; use after it throws", async () => {
    const stream = device.createStream();
    const event = stream.record();
    stream.dispose();
    stream.dispose();
    stream[Symbol.dispose]();
    expect(() => stream.record()).toThrow(RopeDisposedError);
    expect(() => stream.synchronizeBlocking()).toThrow(
      /Stream\.synchronizeBlocking: this stream must be live, .* keep it alive until its last use\.$/,
    );
    await expect(stream.synchronize()).rejects.toThrow(RopeDisposedError);
    expect(() => stream.wait(event)).toThrow(RopeDisposedError);
    await event.synchronize(); // it outlives its stream
    event.dispose();
    event.dispose();
    event[Symbol.dispose]();
    await expect(event.synchronize()).rejects.toThrow(RopeDisposedError);
    await expect(event.elapsedMs(event)).rejects.toThrow(RopeDisposedError);
    expect(() => device.stream.wait(event)).toThrow(/Stream\.wait: event must be live, .* keep it alive until its last use\.$/);
  });

  test("the default stream is there for good", () => {
    expect(() => device.stream.dispose()).toThrow(
      /Stream\.dispose: this stream must be one that createStream\(\) made, got the device's default stream/,
    );
    device.stream.synchronizeBlocking();
  });

  test("refuses what is no event", async () => {
    using stream = device.createStream();
    using event = stream.record();
    for (const { value } of [...notObjects, { value: stream }]) {
      expect(() => (stream as Loose).wait(value)).toThrow(/event must be a DeviceEvent/);
      await expect((event as Loose).elapsedMs(value)).rejects.toThrow(/since must be a DeviceEvent/);
    }
  });

  test("constructors are not for callers", () => {
    expect(() => new (Stream as Loose)()).toThrow(/Use device\.createStream\(\)/);
    const event: DeviceEvent = device.stream.record();
    expect(() => new (event.constructor as Loose)()).toThrow(RopeArgumentError);
    event.dispose();
  });

  test("a thousand streams and events leave no handle behind", () => {
    const before = usage().handles;
    for (let i = 0; i < 1000; i++) {
      using stream = device.createStream();
      using event = stream.record();
      stream.wait(event);
    }
    expect(usage().handles).toBeLessThanOrEqual(before);
  });
});
