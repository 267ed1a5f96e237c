// What only shows on a GPU, where calls return before their work is done: order between streams, memory that is not reused early, a steady state
// without the driver, graphs, faults, memory that runs out, several devices. Skipped where there is no GPU. What the C library is asked for, call by
// call, is fake.test.ts's.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  Device,
  type DType,
  type HostArray,
  RopeArgumentError,
  RopeDeviceError,
  RopeFaultError,
  RopeOutOfMemoryError,
  RotaryEmbedding,
  type Stream,
  Tensor,
} from "../../mod.ts";
import { gpus, open } from "../support/devices.ts";
import { bytesOf, fenced, poisoned } from "../support/fence.ts";
import { Load } from "../support/load.ts";
import { Random, seeded } from "../support/random.ts";

const dtypes: readonly DType[] = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64", "int32", "uint8"];
const cpu = Device.open("cpu");

if (gpus.length === 0) test.skip("there is no GPU here");

describe.each(gpus)("on %s", (name) => {
  const device = open(name);
  let load: Load;
  beforeAll(async () => void (load = await Load.of(device)));
  afterAll(() => load[Symbol.dispose]());

  describe("streams", () => {
    test("a result is used on another stream only when it is there", async () => {
      using a = device.createStream();
      using b = device.createStream();
      using source = Tensor.arange(1000, { device });
      using between = Tensor.zeros([1000], { dtype: "int32", device });
      using target = Tensor.zeros([1000], { dtype: "int32", device });
      load.on(a, 30);
      between.copyFrom(source, { stream: a });
      target.copyFrom(between, { stream: b });
      expect((await target.read())[999]).toBe(999); // read on the default stream: the third
    });

    test("what is read on one stream is overwritten on another only after that", async () => {
      using a = device.createStream();
      using source = Tensor.full([1000], 1, { device });
      using target = Tensor.zeros([1000], { device });
      load.on(a, 30);
      target.copyFrom(source, { stream: a });
      source.write(new Float32Array(1000).fill(2));
      expect((await target.read()).every((value) => value === 1)).toBe(true);
      expect((await source.read()).every((value) => value === 2)).toBe(true);
    });

    test(
      "any program on any streams does what it does one call after another",
      seeded(8, (random) => {
        const size = 1 << 16;
        const streams = [device.stream, ...Array.from({ length: 3 }, () => device.createStream())];
        const make = (on: Device, value: number): Tensor => Tensor.arange(size, { start: value, dtype: "int32", device: on });
        const pairs = Array.from({ length: 5 }, (_, i) => ({ gpu: make(device, i * size), host: make(cpu, i * size) }));
        for (let step = 0; step < 150; step++) {
          const stream = random.pick(streams);
          const [from, to] = [random.pick(pairs), random.pick(pairs)];
          if (random.next() < 0.05) load.on(stream, 1);
          if (random.next() < 0.15) {
            // Another tensor in the memory, perhaps, of one that streams may still use.
            to.gpu.dispose();
            to.host.dispose();
            [to.gpu, to.host] = [make(device, step), make(cpu, step)];
          } else if (from !== to) {
            const length = random.integer(1, size);
            const [start, end] = [random.integer(0, size - length), random.integer(0, size - length)];
            for (const side of ["gpu", "host"] as const) {
              using part = from[side].slice(0, start, start + length);
              using place = to[side].slice(0, end, end + length);
              place.copyFrom(part, side === "gpu" ? { stream } : {});
            }
          }
        }
        for (const { gpu, host } of pairs) {
          expect(Buffer.compare(bytesOf(gpu), bytesOf(host))).toBe(0);
          gpu.dispose();
          host.dispose();
        }
        for (const stream of streams.slice(1)) stream.dispose();
      }),
    );

    test.each(["alive", "disposed of"])("memory in use on a stream that is %s is not reused early", async (kind) => {
      const stream = device.createStream();
      const source = Tensor.full([5000], 1, { device });
      using target = Tensor.zeros([5000], { device });
      const { driverAllocations } = device.memory();
      load.on(stream, 30);
      target.copyFrom(source, { stream });
      source.dispose();
      if (kind === "disposed of") stream.dispose();
      using poison = Tensor.full([5000], -1, { device });
      expect(device.memory().driverAllocations).toBe(driverAllocations); // the same memory
      expect((await target.read()).every((value) => value === 1)).toBe(true);
      expect((await poison.read()).every((value) => value === -1)).toBe(true);
      stream.dispose();
    });

    test("events order streams and measure time", async () => {
      using a = device.createStream();
      using b = device.createStream();
      using start = a.record();
      load.on(a, 20);
      using end = a.record();
      b.wait(end);
      using after = b.record();
      expect(await end.elapsedMs(start)).toBeGreaterThan(5);
      expect(await after.elapsedMs(start)).toBeGreaterThanOrEqual(await end.elapsedMs(start));
      await after.synchronize();
    });

    test("timers tick while the device works", async () => {
      using stream = device.createStream();
      let ticks = 0;
      const timer = setInterval(() => ticks++, 2);
      load.on(stream, 200);
      const before = ticks;
      await device.synchronize();
      clearInterval(timer);
      expect(ticks - before).toBeGreaterThan(10);
    });
  });

  describe("memory", () => {
    test("in a steady state nothing is taken from the driver, on any stream, with positions of any kind", async () => {
      using rope = new RotaryEmbedding({ dim: 64, device });
      using stream = device.createStream();
      using q = Tensor.random([4, 8, 64], { dtype: "bfloat16", device });
      using k = Tensor.random([4, 2, 64], { dtype: "bfloat16", device });
      using ids = Tensor.arange(4, { device });
      const forms = [{ offset: 3 }, { positions: ids }, { positions: [1, 2, 3, 4] }, { indptr: [0, 4], offsets: [9] }];
      const run = (): void => {
        for (const form of [...forms, ...forms.map((form) => ({ ...form, stream }))]) {
          const [a, b] = rope.forward(q, k, form);
          a.dispose();
          b.dispose();
        }
      };
      for (let i = 0; i < 3; i++) run();
      const before = device.memory();
      for (let i = 0; i < 200; i++) run();
      expect(device.memory()).toEqual(before);
      await device.synchronize();
    });

    test("reads keep what was there, and many go on at once", async () => {
      const tensors = Array.from({ length: 30 }, (_, i) => Tensor.full([2000], i, { device }));
      const reads = tensors.map((tensor) => tensor.read());
      for (const tensor of tensors) {
        tensor.write(new Float32Array(2000).fill(-1));
        tensor.dispose();
      }
      using poison = Tensor.full([2000], -2, { device });
      for (const [i, read] of reads.entries()) expect((await read).every((value) => value === i)).toBe(true);
      expect(poison.readBlocking()[0]).toBe(-2);
    });

    test("that runs out is an error with the numbers, and afterwards all works again", async () => {
      device.trim();
      const start = device.memory();
      const blocks: Tensor[] = [];
      let error: unknown;
      try {
        while (blocks.length * 2 ** 30 <= device.info.memoryBytes) blocks.push(Tensor.empty([2 ** 30], { dtype: "uint8", device }));
      } catch (thrown) {
        error = thrown;
      }
      expect(error).toBeInstanceOf(RopeOutOfMemoryError);
      const { requested, inUse, reserved, operation } = error as RopeOutOfMemoryError;
      expect([operation, requested, inUse]).toEqual(["Tensor.empty", 2 ** 30, start.bytesInUse + blocks.length * 2 ** 30]);
      expect(reserved).toBeGreaterThanOrEqual(inUse);
      blocks.pop()?.dispose();
      using again = Tensor.full([2 ** 28], 7, { dtype: "uint8", device }); // after a trim of the block that is free
      using part = again.slice(0, -4);
      expect([...await part.read()]).toEqual([7, 7, 7, 7]);
      for (const block of blocks) block.dispose();
      device.trim();
      await device.synchronize();
      expect(device.memory().bytesInUse).toBe(start.bytesInUse + again.byteLength);
    });

    test("by its address", async () => {
      using base = Tensor.arange(12, { device });
      using odd = Tensor.fromPointer(base.pointer + 4, [6], { dtype: "int32", device, strides: [2], owner: base });
      expect([...await odd.read()]).toEqual([1, 3, 5, 7, 9, 11]);
      odd.write([0, 0, 0, 0, 0, -1]);
      expect(base.readBlocking()[11]).toBe(-1);
    });
  });

  describe("between devices", () => {
    test(
      "elements are copied and converted as on the CPU, strided ones too",
      seeded(60, (random) => {
        const [dtype, other] = [random.pick(dtypes), random.pick(dtypes)];
        const shape = random.shape(random.integer(0, 4), 0, 6);
        using source = fenced(random, cpu, dtype, shape);
        using there = fenced(random, device, other, shape);
        using back = fenced(random, cpu, dtype, shape);
        using expected = source.tensor.to(other);
        using round = expected.to(dtype);
        expect(there.tensor.copyFrom(source.tensor)).toBe(there.tensor);
        expect(bytesOf(there.tensor)).toEqual(bytesOf(expected));
        back.tensor.copyFrom(there.tensor);
        expect(bytesOf(back.tensor)).toEqual(bytesOf(round));
        for (const each of [source, there, back]) each.intact();
      }),
    );

    test("to() crosses, and later work on either side does not show", () => {
      using host = Tensor.arange(6, { device: cpu });
      using turned = host.reshape([2, 3]).transpose(0, 1);
      using here = turned.to(name);
      expect([here.device, here.isContiguous, ...here.readBlocking()]).toEqual([device, true, 0, 3, 1, 4, 2, 5]);
      host.write([9, 9, 9, 9, 9, 9]);
      using back = here.to("cpu");
      here.write([8, 8, 8, 8, 8, 8]);
      expect([...back.data]).toEqual([0, 3, 1, 4, 2, 5]);
    });

    test("one call takes tensors of one device, and streams and events of it", async () => {
      using rope = new RotaryEmbedding({ dim: 8, device });
      using here = Tensor.zeros([2, 1, 8], { device });
      using there = Tensor.zeros([2, 1, 8], { device: cpu });
      using ids = Tensor.arange(2, { device: cpu });
      using stream = cpu.createStream();
      using event = stream.record();
      using mine = device.stream.record();
      const uses = [
        () => rope.forward(here, there),
        () => rope.forward(there, here),
        () => rope.rotate(here, { out: there }),
        () => rope.rotate(here, { positions: ids }),
        () => rope.rotate(here, { stream }),
        () => here.copyFrom(there, { stream }),
        () => Tensor.cat([here, there], 0),
        () => device.stream.wait(event),
      ];
      for (const use of uses) expect(use).toThrow(RopeDeviceError);
      await expect(mine.elapsedMs(event)).rejects.toThrow(RopeDeviceError);
      rope.rotate(here).dispose(); // nothing of that has come between the device's streams
      await device.synchronize();
    });

    test("no copy between devices is recorded", () => {
      using here = Tensor.zeros([2], { device });
      using there = Tensor.zeros([2], { device: cpu });
      for (const recorder of [device, cpu]) {
        recorder.capture(() => {
          for (const use of [() => here.copyFrom(there), () => there.copyFrom(here), () => here.to("cpu"), () => there.to(name)]) {
            expect(use).toThrow(RopeArgumentError);
            expect(use).toThrow(/which records a graph\. A copy between devices cannot be recorded/);
          }
        }).dispose();
      }
    });
  });

  describe("graphs", () => {
    test("of 32 layers replay a thousand times, bit for bit, with positions rewritten in between", () => {
      using rope = new RotaryEmbedding({ dim: 128, base: 5e5, device });
      const layers = Array.from({ length: 32 }, (_, layer) => ({
        q: Tensor.random([3, 8, 128], { seed: layer, dtype: "bfloat16", device }),
        k: Tensor.random([3, 2, 128], { seed: 100 + layer, dtype: "bfloat16", device }),
      }));
      using positions = Tensor.zeros([3], { dtype: "int32", device });
      let rotated: [Tensor, Tensor][] = [];
      const before = device.memory();
      const graph = device.capture(() => {
        rotated = layers.map(({ q, k }) => rope.forward(q, k, { positions }));
      });
      for (let replay = 0; replay < 1000; replay++) {
        positions.write(Int32Array.of(replay, 2 * replay, replay % 7 === 0 ? -1 : 131_072 + replay));
        graph.launch();
        if (replay % 111 !== 0) continue;
        for (const layer of [0, 15, 31]) {
          const { q, k } = layers[layer] ?? { q: positions, k: positions };
          const eager = rope.forward(q, k, { positions });
          eager.forEach((tensor, i) => {
            expect(Buffer.compare(bytesOf(tensor), bytesOf(rotated[layer]?.[i] ?? positions))).toBe(0);
            tensor.dispose();
          });
        }
      }
      graph.dispose();
      expect(device.memory().bytesInUse).toBe(before.bytesInUse);
      for (const { q, k } of layers) {
        q.dispose();
        k.dispose();
      }
    });

    test("wait for what their memory was used for, and others for them, on any stream", async () => {
      using a = device.createStream();
      using b = device.createStream();
      using source = Tensor.zeros([1000], { device });
      using target = Tensor.zeros([1000], { device });
      using kept = Tensor.zeros([1000], { device });
      using graph = device.capture((stream) => {
        using between = source.clone();
        target.copyFrom(between, { stream });
      });
      for (const stream of [a, b, device.stream]) {
        load.on(a, 5);
        using fresh = Tensor.full([1000], 3, { device });
        source.copyFrom(fresh, { stream: a });
        graph.launch(stream);
        source.copyFrom(kept, { stream: b });
        expect((await target.read()).every((value) => value === 3)).toBe(true);
        target.copyFrom(kept);
      }
    });

    test("recording allocates, and memory given up meanwhile is not the recording's", () => {
      device.trim();
      using source = Tensor.full([3000], 2, { device });
      const gone = Tensor.full([3000], 5, { device });
      let made: Tensor | undefined;
      using graph = device.capture(() => {
        gone.dispose();
        made = source.clone();
        using _more = Tensor.zeros([2 ** 20], { device });
      });
      using other = Tensor.full([3000], 6, { device });
      graph.launch();
      expect(made?.readBlocking()[2999]).toBe(2);
      expect(other.readBlocking()[2999]).toBe(6);
    });
  });

  describe("faults", () => {
    const limit = 2 ** 38;
    const rotate = (bad: boolean, stream?: Stream): { out: Tensor; rope: RotaryEmbedding; x: Tensor } => {
      const rope = new RotaryEmbedding({ dim: 32, device });
      const x = Tensor.random([4, 2, 32], { seed: 1, device });
      const out = Tensor.full([4, 2, 32], 9, { device });
      using positions = Tensor.from(BigInt64Array.of(1n, 2n, bad ? BigInt(limit + 5) : 3n, 4n), [4], { device });
      rope.rotate(x, { positions, out, ...stream === undefined ? {} : { stream } });
      return { out, rope, x };
    };
    const expected = { code: "position", operation: "rotate", request: 0, index: 2, value: limit + 5, limit };

    test("are reported by the next wait, once; the row is not written, its neighbours are", async () => {
      using stream = device.createStream();
      using event = device.stream.record();
      const waits = [
        () => device.synchronize(),
        () => device.stream.synchronize(),
        () => Promise.resolve().then(() => stream.synchronizeBlocking()),
        () => event.synchronize(),
      ];
      for (const wait of waits) {
        const { out, rope, x } = rotate(true, stream);
        stream.wait(device.stream.record());
        const good = rotate(false);
        const [rows, want] = [await out.read(), await good.out.read()]; // reading leaves the fault where it is
        expect([...rows.subarray(0, 128)]).toEqual([...want.subarray(0, 128)]);
        expect(rows.subarray(128, 192).every((value) => value === 9)).toBe(true);
        expect([...rows.subarray(192)]).toEqual([...want.subarray(192)]);
        const error = await wait().catch((error: unknown) => error) as RopeFaultError;
        expect(error).toBeInstanceOf(RopeFaultError);
        expect(error.fault).toEqual(expected);
        await device.synchronize();
        for (const each of [out, rope, x, good.out, good.rope, good.x]) each.dispose();
      }
    });

    test("are taken by faults()", async () => {
      const { out, rope, x } = rotate(true);
      await out.read();
      expect(device.faults()).toEqual([expected]);
      expect(device.faults()).toEqual([]);
      await device.synchronize();
      for (const each of [out, rope, x]) each.dispose();
    });

    test("show in replays too", async () => {
      using rope = new RotaryEmbedding({ dim: 32, device });
      using x = Tensor.random([2, 1, 32], { device });
      using positions = Tensor.zeros([2], { dtype: "int64", device });
      let out: Tensor = x;
      using graph = device.capture(() => out = rope.rotate(x, { positions }));
      for (const value of [7n, BigInt(limit) + 1n, 8n]) {
        positions.write(BigInt64Array.of(3n, value));
        graph.launch();
        if (value < limit) await device.synchronize();
        else await expect(device.synchronize()).rejects.toThrow(RopeFaultError);
        using first = out.select(0, 0);
        using row = x.slice(0, 0, 1);
        using alone = rope.rotate(row, { offset: 3 });
        expect(bytesOf(first)).toEqual(bytesOf(alone));
      }
    });

    test("of cosSin, and of indptr", async () => {
      using rope = new RotaryEmbedding({ dim: 32, device });
      const { cos, sin } = rope.cosSin([0, limit + 1]);
      const error = await device.synchronize().catch((error: unknown) => error) as RopeFaultError;
      expect(error.fault).toMatchObject({ code: "position", operation: "cosSin", index: 1 });
      using x = Tensor.zeros([4, 1, 32], { device });
      using indptr = Tensor.from(Int32Array.of(0, 3, 1, 4), [4], { device });
      rope.rotate(x, { indptr }).dispose();
      await expect(device.synchronize()).rejects.toMatchObject({ fault: { code: "indptr", operation: "rotate" } });
      await device.synchronize();
      cos.dispose();
      sin.dispose();
    });
  });
});

describe.skipIf(gpus.length < 2)("on two GPUs", () => {
  test("each has its memory, its streams and its waits; tensors cross between them", async () => {
    const [first, second] = [Device.open("cuda:0"), Device.open("cuda:1")];
    const random = new Random(1);
    for (const dtype of dtypes) {
      using x = poisoned(random, first, dtype, [40, 50]);
      using turned = x.transpose(0, 1);
      using there = turned.to(second);
      using back = there.to(first);
      expect(there.device).toBe(second);
      expect(bytesOf(back)).toEqual(bytesOf(turned));
      const array: HostArray = await there.read();
      expect(array.length).toBe(2000);
      expect(() => x.copyFrom(x, { stream: second.stream })).toThrow(RopeDeviceError);
    }
    await Promise.all([first.synchronize(), second.synchronize()]);
  });
});
