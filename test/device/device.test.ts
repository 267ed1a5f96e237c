// Device: opening by name, what it says of itself, its counters, and waiting for it.
import { describe, expect, test } from "bun:test";
import { Device, RopeArgumentError, RopeDeviceError, type Stream, Tensor } from "../../mod.ts";
import { notObjects } from "../support/coercion.ts";
import { devices, open } from "../support/devices.ts";

// deno-lint-ignore no-explicit-any
const loose = Device as any;

describe("Device.open", () => {
  test("gives one object per device", () => {
    expect(Device.open("cpu")).toBe(Device.open("cpu"));
    expect(Device.open("cpu").name).toBe("cpu");
    expect(Device.open("cpu").kind).toBe("cpu");
    expect(Device.open()).toBe(Device.open("auto"));
    expect(devices.some((name) => name === Device.open("auto").name)).toBe(true);
  });

  test("refuses other names and says which there are", () => {
    for (
      const name of [
        "tpu",
        "",
        "CPU",
        " cpu",
        "cuda",
        "cuda:",
        "cuda:x",
        "cuda:-1",
        "cuda:1.5",
        "cuda:1e1",
        "cuda:01",
        "cuda:9999999999",
        "cpu:0",
      ]
    ) {
      expect(() => loose.open(name)).toThrow(
        `Device.open: name must be "auto", "cpu" or "cuda:<number>" ("cuda:0"), got ${JSON.stringify(name)}.`,
      );
    }
    for (const { value } of notObjects.filter(({ value }) => value !== undefined)) {
      expect(() => loose.open(value)).toThrow(RopeArgumentError);
    }
  });

  test("long names are shortened in the message", () => {
    const error = thrownBy(() => loose.open("x".repeat(10_000)));
    expect(error).toBeInstanceOf(RopeArgumentError);
    expect(String(error).length).toBeLessThan(300);
  });

  test("a GPU that is not there is a RopeDeviceError that says what to do", () => {
    const absent = "cuda:99" as const;
    const error = thrownBy(() => Device.open(absent)) as RopeDeviceError;
    expect(error).toBeInstanceOf(RopeDeviceError);
    expect([error.code, error.operation]).toEqual(["ROPE_DEVICE", "Device.open"]);
    expect(error.message).toMatch(/cuda:99.*"cpu", or "auto"/);
    expect(() => Tensor.zeros([1], { device: absent })).toThrow(/^Tensor\.zeros: there is no cuda:99/);
  });

  test("the constructor is not for callers", () => {
    expect(() => new loose()).toThrow(/Device: the constructor is not for callers\. Use Device\.open\(\)/);
  });
});

test("Device.list names every device, the CPU too", () => {
  const list = Device.list();
  expect(list.map((info) => info.name)).toContain("cpu");
  for (const info of list) {
    expect(["cpu", "cuda"]).toContain(info.kind);
    expect(info.description.length).toBeGreaterThan(3);
    expect(info.usable || (info.reason ?? "").length > 3).toBe(true);
  }
});

describe.each(devices)("on %s", (name) => {
  const device = open(name);

  test("info", () => {
    expect(device.info).toBe(device.info);
    expect(device.info.name).toBe(device.name);
    expect(device.info.kind).toBe(device.kind);
    expect(device.info.usable).toBe(true);
    expect(device.info.memoryBytes).toBeGreaterThan(2 ** 28);
    const capability: [number, number] | undefined = device.info.computeCapability;
    expect(capability === undefined).toBe(device.kind === "cpu");
  });

  test("health, faults and synchronize of a device that works", async () => {
    expect(device.health()).toEqual({ ok: true });
    expect(device.faults()).toEqual([]);
    await device.synchronize();
    expect(device.stream.handle).toBe(0);
    expect(device.stream).toBe(device.stream);
  });

  test("memory counts what tensors were asked for, exactly", () => {
    device.trim();
    const start = device.memory();
    expect(start.bytesReserved).toBeGreaterThanOrEqual(start.bytesInUse);
    const x = Tensor.empty([1000], { dtype: "uint8", device });
    const y = Tensor.empty([3], { dtype: "float64", device });
    const none = Tensor.empty([0], { device });
    let now = device.memory();
    expect(now.bytesInUse).toBe(start.bytesInUse + 1024);
    expect(now.liveTensors).toBe(start.liveTensors + 3);
    expect(now.driverAllocations).toBe(start.driverAllocations + 3);
    expect(now.peakBytesInUse).toBeGreaterThanOrEqual(now.bytesInUse);
    for (const tensor of [x, y, none]) tensor.dispose();
    now = device.memory();
    expect([now.bytesInUse, now.liveTensors]).toEqual([start.bytesInUse, start.liveTensors]);
    expect(now.bytesReserved).toBeGreaterThan(start.bytesReserved);
    device.trim();
    expect(device.memory().bytesReserved).toBe(start.bytesReserved);
  });

  test("peakBytesInUse is the most there was", () => {
    const { bytesInUse, peakBytesInUse } = device.memory();
    const more = Math.max(peakBytesInUse - bytesInUse, 0) + 4096;
    Tensor.empty([more], { dtype: "uint8", device }).dispose();
    expect(device.memory().peakBytesInUse).toBe(bytesInUse + more);
    Tensor.empty([16], { device }).dispose();
    expect(device.memory().peakBytesInUse).toBe(bytesInUse + more);
  });

  test.skipIf(device.kind !== "cpu")("borrowed arrays are counted as tensors, not as bytes", () => {
    const before = device.memory();
    using _x = Tensor.from(new Float32Array(100), [100], { device });
    expect(device.memory()).toEqual({ ...before, liveTensors: before.liveTensors + 1 });
  });

  test("synchronize cannot be part of a recording", async () => {
    let promise: Promise<void> | undefined;
    const graph = device.capture((_: Stream) => {
      promise = device.synchronize();
      promise.catch(() => {});
    });
    await expect(promise).rejects.toThrow(RopeArgumentError);
    graph.dispose();
  });
});

function thrownBy(use: () => unknown): unknown {
  try {
    use();
  } catch (error) {
    return error;
  }
  return undefined;
}
