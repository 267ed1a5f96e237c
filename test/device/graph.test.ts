// Graphs: what a capture records, what it refuses, what it keeps alive, and how it ends when something goes wrong.
import { describe, expect, test } from "bun:test";
import {
  applyRopePosIdsInplace,
  Graph,
  RopeArgumentError,
  RopeDisposedError,
  RopeFaultError,
  RotaryEmbedding,
  type Stream,
  Tensor,
  toBfloat16,
} from "../../mod.ts";
import { notObjects } from "../support/coercion.ts";
import { devices, open } from "../support/devices.ts";
import { collectGarbage } from "../support/runtime.ts";
import { usage } from "../support/usage.ts";

// deno-lint-ignore no-explicit-any
type Loose = any;

describe.each(devices)("on %s", (name) => {
  const device = open(name);

  test("capture records and runs nothing; launch runs everything, each time", () => {
    using x = Tensor.full([4], 1, { device });
    using y = Tensor.zeros([4], { device });
    using z = Tensor.zeros([4], { dtype: "int32", device });
    using graph = device.capture(() => {
      y.copyFrom(x);
      z.copyFrom(y);
    });
    expect([...z.readBlocking()]).toEqual([0, 0, 0, 0]);
    graph.launch();
    expect([...z.readBlocking()]).toEqual([1, 1, 1, 1]);
    x.write([5, 6, 7, 8]);
    graph.launch();
    graph.launch(device.stream);
    using stream = device.createStream();
    graph.launch(stream);
    stream.synchronizeBlocking();
    expect([...z.readBlocking()]).toEqual([5, 6, 7, 8]);
  });

  test("the recording stream is given, and is what operations use by default", () => {
    using x = Tensor.full([2], 1, { device });
    using y = Tensor.zeros([2], { device });
    using z = Tensor.zeros([2], { device });
    let recorder: Stream | undefined;
    using graph = device.capture((stream) => {
      recorder = stream;
      y.copyFrom(x, { stream });
      z.copyFrom(y);
      expect(device.stream.handle).toBe(0); // still the default one
    });
    expect([...y.readBlocking(), ...z.readBlocking()]).toEqual([0, 0, 0, 0]);
    graph.launch();
    expect([...y.readBlocking(), ...z.readBlocking()]).toEqual([1, 1, 1, 1]);
    expect(() => recorder?.record()).toThrow(RopeDisposedError);
    expect(() => y.copyFrom(x, { stream: recorder })).toThrow(/whose recording has ended/);
    recorder?.dispose(); // harmless: it has ended
  });

  test("every operation on tensors is recorded, and its results belong to the graph", () => {
    using x = Tensor.from([1, 2, 3, 4], [2, 2], { device });
    const made: Tensor[] = [];
    const before = device.memory();
    const graph = device.capture(() => {
      made.push(Tensor.zeros([2], { device }), Tensor.full([2], 7, { device }), Tensor.arange(2, { device }));
      made.push(Tensor.random([2], { seed: 1, device }), x.clone(), x.to("int32"), x.transpose(0, 1).contiguous(), Tensor.cat([x, x], 0));
    });
    for (const launch of [1, 2]) {
      x.write([1, 2, 3, 4].map((value) => value * launch));
      for (const tensor of made) tensor.write(new Array(tensor.size).fill(99));
      graph.launch();
      const values = made.map((tensor) => [...tensor.readBlocking()].map(Number));
      const [a = 0, b = 0, c = 0, d = 0] = [...x.readBlocking()];
      expect(values.toSpliced(3, 1)).toEqual([[0, 0], [7, 7], [0, 1], [a, b, c, d], [a, b, c, d], [a, c, b, d], [a, b, c, d, a, b, c, d]]);
      using random = Tensor.random([2], { seed: 1, device });
      expect(values[3]).toEqual([...random.readBlocking()]);
    }
    graph.dispose();
    expect(made.every((tensor) => tensor.disposed)).toBe(true);
    expect(device.memory().bytesInUse).toBe(before.bytesInUse);
    expect(device.memory().liveTensors).toBe(before.liveTensors);
  });

  test("memory that a recording uses is kept until the graph goes, also where its tensors are disposed of while recording or after", () => {
    const x = Tensor.full([500], 4, { device });
    using y = Tensor.zeros([500], { device });
    const before = device.memory().bytesInUse;
    const graph = device.capture(() => {
      using between = x.clone();
      using doubled = between.clone();
      y.copyFrom(doubled);
    });
    x.dispose();
    const others = Array.from({ length: 20 }, () => Tensor.full([500], -1, { device }));
    graph.launch();
    expect(y.readBlocking().every((value) => value === 4)).toBe(true);
    expect(others.every((other) => other.readBlocking().every((value) => value === -1))).toBe(true);
    for (const other of others) other.dispose();
    graph.dispose();
    graph.dispose();
    expect(device.memory().bytesInUse).toBe(before - 2000);
  });

  test("what cannot be recorded is refused by name", async () => {
    using x = Tensor.zeros([2], { device });
    using event = device.stream.record();
    using other = device.capture(() => {});
    const rejected: Promise<unknown>[] = [];
    using graph = device.capture((stream) => {
      const refused: [string, () => unknown][] = [
        ["Tensor.from", () => Tensor.from([1, 2], [2], { device })],
        ["Tensor.from", () => Tensor.from(new Float32Array(2), [2], { device })],
        ["Tensor.readBlocking", () => x.readBlocking()],
        ["Tensor.write", () => x.write([1, 2])],
        ["Stream.synchronizeBlocking", () => device.stream.synchronizeBlocking()],
        ["Stream.synchronizeBlocking", () => stream.synchronizeBlocking()],
        ["Stream.record", () => stream.record()],
        ["Stream.wait", () => stream.wait(event)],
        ["Device.trim", () => device.trim()],
        ["Device.createStream", () => device.createStream()],
        ["Device.capture", () => device.capture(() => {})],
        ["Graph.launch", () => other.launch()],
      ];
      for (const [operation, use] of refused) {
        expect(use).toThrow(RopeArgumentError);
        expect(use).toThrow(
          new RegExp(`^${operation}: device must be one that is not recording, got ${device.name}, which records a graph\\.`),
        );
      }
      expect(() => stream.dispose()).toThrow(/the stream that records a graph/);
      rejected.push(x.read(), x.toFloat32(), stream.synchronize(), device.synchronize(), event.synchronize(), event.elapsedMs(event));
      for (const promise of rejected) promise.catch(() => {});
    });
    for (const promise of rejected) await expect(promise).rejects.toThrow(/cannot be recorded/);
    graph.launch();
  });

  test("no other stream than the recording one: its work would run at once, on memory that is only recorded", () => {
    using x = Tensor.full([2], 1, { device });
    using y = Tensor.zeros([2], { device });
    using other = device.createStream();
    using graph = device.capture((stream) => {
      for (const wrong of [other, device.stream]) {
        const error = thrownBy(() => y.copyFrom(x, { stream: wrong }));
        expect(error).toBeInstanceOf(RopeArgumentError);
        expect(error).toMatchObject({ operation: "Tensor.copyFrom", argument: "stream", expected: "the stream that records, or none" });
      }
      y.copyFrom(x, { stream });
    });
    expect([...y.readBlocking()]).toEqual([0, 0]);
    graph.launch();
    expect([...y.readBlocking()]).toEqual([1, 1]);
    using z = Tensor.zeros([2], { device });
    z.copyFrom(y, { stream: other });
    other.synchronizeBlocking();
    expect([...z.readBlocking()]).toEqual([1, 1]);
  });

  test("the fault of a launch names the operation inside, without the C library's prefix", () => {
    using q = Tensor.zeros([1, 1, 4], { device });
    using positions = Tensor.zeros([1], { dtype: "int64", device });
    using graph = device.capture(() => applyRopePosIdsInplace(q, null, positions));
    using rope = new RotaryEmbedding({ dim: 4, device });
    using table = device.capture(() => rope.cosSin(positions));
    positions.write([2 ** 40]);
    for (const [what, operation] of [[graph, "rotate"], [table, "cosSin"]] as const) {
      const error = thrownBy(() => {
        what.launch();
        device.stream.synchronizeBlocking();
      });
      expect(error).toBeInstanceOf(RopeFaultError);
      expect((error as RopeFaultError).fault).toMatchObject({ operation, value: 2 ** 40 });
    }
  });

  test("what `record` throws comes out, and nothing of the recording is left", () => {
    using x = Tensor.full([8], 1, { device });
    const before = [device.memory().bytesInUse, device.memory().liveTensors, usage().handles];
    const mine = new Error("mine");
    let made: Tensor | undefined;
    expect(() =>
      device.capture(() => {
        made = x.clone();
        throw mine;
      })
    ).toThrow(mine);
    expect(made?.disposed).toBe(true);
    expect([device.memory().bytesInUse, device.memory().liveTensors, usage().handles]).toEqual(before);
    using y = x.clone(); // runs: nothing is recording any more
    expect([...y.readBlocking()]).toEqual(new Array(8).fill(1));
    expect(() => device.capture(() => x.reshape([3]))).toThrow(RopeArgumentError);
    device.capture(() => {}).dispose();
  });

  test("async functions and what is no function", () => {
    const before = usage().handles;
    expect(() => device.capture((async () => await Promise.resolve()) as Loose)).toThrow(
      /record must be a function that is done when it returns, got one that returned a promise/,
    );
    expect(() => device.capture((() => Promise.reject(new Error("ignored"))) as Loose)).toThrow(RopeArgumentError);
    for (const { value } of notObjects.filter(({ value }) => typeof value !== "function")) {
      expect(() => device.capture(value as Loose)).toThrow(/record must be a function/);
    }
    expect(usage().handles).toBeLessThanOrEqual(before);
  });

  test("a graph of nothing, disposed graphs, and streams that are none", () => {
    const graph = device.capture(() => {});
    graph.launch();
    for (const { value } of notObjects.filter(({ value }) => value !== undefined)) {
      expect(() => graph.launch(value as Loose)).toThrow(/stream must be a Stream/);
    }
    const stream = device.createStream();
    stream.dispose();
    expect(() => graph.launch(stream)).toThrow(RopeDisposedError);
    graph.dispose();
    expect(() => graph.launch()).toThrow(/Graph\.launch: this graph must be live, got a disposed one\. Do not use it after dispose\(\)/);
    expect(() => new (Graph as Loose)()).toThrow(/Use device\.capture\(\)/);
  });

  test("conversions of host arrays run at once, also while a graph records", () => {
    using graph = device.capture(() => {
      expect([...toBfloat16([1, 2])]).toEqual([0x3f80, 0x4000]);
    });
    graph.launch();
  });

  test("the net catches forgotten graphs and leaves tensors in hand alone", async () => {
    using x = Tensor.full([16], 2, { device });
    const before = usage().handles;
    const kept = Array.from({ length: 20 }, () => {
      let made: Tensor | undefined;
      const graph = device.capture(() => made = x.clone());
      graph.launch();
      if (made === undefined) throw new Error("nothing was recorded");
      return made;
    });
    const done = (): boolean => usage().handles <= before + 4; // a few may stay: Bun's collector is conservative
    await collectGarbage(done);
    expect(done()).toBe(true);
    for (const tensor of kept) {
      expect([...tensor.readBlocking()]).toEqual(new Array(16).fill(2));
      tensor.dispose();
    }
  });

  test("the net catches forgotten streams and events", async () => {
    const before = usage().handles;
    for (let i = 0; i < 50; i++) device.createStream().record();
    expect(usage().handles).toBeGreaterThan(before + 50); // 100, less what a Worker of an earlier test still gives back
    const done = (): boolean => usage().handles <= before + 10;
    await collectGarbage(done);
    expect(done()).toBe(true);
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
