// What test/device/fake.test.ts runs in a process of its own, where the library is a FakeBackend: scenarios by name, and what each one led to.
// Prints one JSON object.
import { Device, type DeviceEvent, RopeOutOfMemoryError, RotaryEmbedding, Tensor } from "../../mod.ts";
import { enums } from "../../src/native/layouts.ts";
import { openWith } from "../../src/native/library.ts";
import { FakeBackend } from "./fake_backend.ts";

const fake = new FakeBackend();
openWith(fake);
const results: Record<string, unknown> = {};
const opened: Device[] = [];

// What a scenario does not dispose of must not be collected either: its memory would come back at some point of another scenario.
const kept: unknown[] = [];
function keep<Item>(item: Item): Item {
  kept.push(item);
  return item;
}

function thrown(use: () => unknown): string {
  try {
    use();
  } catch (error) {
    return (error as Error).name;
  }
  return "nothing";
}

/** Runs a scenario, without free blocks at first; its result is the diary's lines, and what the body returns. */
async function scenario(name: string, body: () => unknown): Promise<void> {
  for (const device of opened) device.trim();
  fake.take();
  const returned = await body();
  results[name] = { diary: fake.take(), returned };
}

// ---- which device -------------------------------------------------------------------------------------------------------------------

fake.driver = "broken";
await scenario("a driver that does not work", () => [
  thrown(() => Device.open()),
  thrown(() => Device.open("cuda:0")),
  Device.list().map(({ name, usable, reason }) => ({ name, usable, reason })),
  Device.open("cpu").name,
]);
fake.driver = "absent";
await scenario("no driver", () => [thrown(() => Device.open("cuda:0")), Device.list().length]);
fake.driver = "good";
const device = Device.open();
opened.push(device);
await scenario(
  "a GPU",
  () => [device.name, device.kind, device.info.computeCapability, device === Device.open("cuda:0"), Device.list().length],
);

// ---- the pool -----------------------------------------------------------------------------------------------------------------------

const make = (size: number = 16): Tensor => Tensor.empty([size], { device });

await scenario("one stream uses its blocks again", () => {
  for (let i = 0; i < 3; i++) make(17).dispose();
  const both = [make(20), make(19)]; // 80 bytes: one class
  for (const tensor of both) tensor.dispose();
  make(18).dispose();
  return device.memory().driverAllocations;
});

await scenario("trim gives everything back", () => {
  const both = [make(20), make(100)];
  for (const tensor of both) tensor.dispose();
  device.trim();
  return device.memory().bytesReserved;
});

await scenario("beyond the classes memory goes straight back", () => {
  Tensor.empty([2 ** 31 + 1], { dtype: "uint8", device }).dispose();
  return device.memory().bytesReserved;
});

await scenario("no memory: trimmed and asked again, once", () => {
  const first = make(1000);
  make(500).dispose();
  fake.blocksLeft = 0;
  fake.blocksToTrim = 1;
  const second = make(2000);
  fake.blocksToTrim = 0;
  const error = ((): unknown => {
    try {
      make(3000);
    } catch (error) {
      return error;
    }
  })();
  fake.blocksLeft = Infinity;
  const again = make(3000);
  for (const tensor of [first, second, again]) tensor.dispose();
  device.trim();
  if (!(error instanceof RopeOutOfMemoryError)) return "no error";
  return [error.operation, error.requested, error.inUse, error.reserved, device.memory().bytesInUse];
});

// ---- streams ------------------------------------------------------------------------------------------------------------------------

const a = device.createStream();
const b = device.createStream();
const names = new Map([[a.handle, "a"], [b.handle, "b"]]);
const scenarioWithStreams = (name: string, body: () => unknown): Promise<void> =>
  scenario(name, async () => {
    const returned = await body();
    fake.diary = fake.diary.map((line) => line.replace(/\d+/g, (digits) => names.get(Number(digits)) ?? digits));
    return returned;
  });
const x = make(64), y = make(64), z = make(64);

await scenarioWithStreams("one after another on one stream", () => {
  x.copyFrom(y);
  z.copyFrom(x);
  x.copyFrom(z);
});

await scenarioWithStreams("a reader waits for the writer, once", () => {
  x.copyFrom(y);
  z.copyFrom(x, { stream: a });
  z.copyFrom(x, { stream: a });
});

await scenarioWithStreams("readers do not wait for each other; the next writer waits for all", () => {
  const [p, q, r] = [make(), make(), make()];
  const source = Tensor.zeros([16], { device });
  fake.take();
  p.copyFrom(source, { stream: a });
  q.copyFrom(source, { stream: b });
  r.copyFrom(source, { stream: a });
  source.copyFrom(keep(y.slice(0, 0, 16)));
  fake.diary.push("--");
  for (const tensor of [p, q, r, source]) tensor.dispose();
});

await scenarioWithStreams("memory comes home before it is used again", () => {
  const source = make();
  const target = make(100);
  fake.take();
  using head = target.slice(0, 0, 16);
  head.copyFrom(source, { stream: a });
  source.dispose();
  target.dispose();
  make().dispose();
});

await scenarioWithStreams("results on a stream are that stream's", () => {
  using rope = new RotaryEmbedding({ dim: 64, device });
  using q = Tensor.zeros([2, 4, 64], { device });
  q.copyFrom(q, { stream: a }); // q is a's now
  fake.take();
  for (let i = 0; i < 3; i++) {
    const [rotated] = rope.forward(q, null, { positions: Int32Array.of(i, i + 1), stream: a });
    rotated.dispose();
  }
});

await scenarioWithStreams("a stream's memory outlives it", () => {
  const stream = device.createStream();
  names.set(stream.handle, "c");
  const rope = keep(new RotaryEmbedding({ dim: 64, device }));
  const [result] = rope.forward(keep(Tensor.zeros([100, 4, 64], { device })), null, { stream });
  const other = rope.rotate(keep(Tensor.zeros([1, 1, 64], { device })), { stream });
  result.dispose();
  fake.take();
  stream.dispose();
  make(25_000).dispose(); // the block of the result
  other.dispose();
  make(64).dispose();
});

await scenarioWithStreams("order is not asked for twice", () => {
  const tensors = keep(Array.from({ length: 5 }, () => Tensor.zeros([16], { device })));
  const head = keep(z.slice(0, 0, 16));
  fake.take();
  for (const tensor of tensors) head.copyFrom(tensor, { stream: b });
});

// ---- graphs -------------------------------------------------------------------------------------------------------------------------

await scenarioWithStreams("a graph is launched after what its memory was used for, and its memory comes home", () => {
  const source = Tensor.zeros([16], { device });
  const other = make(300).copyFrom(keep(make(300)), { stream: b });
  const graph = device.capture(() => {
    const between = source.clone();
    keep(between.clone());
    between.dispose();
    other.dispose(); // not of the recording: it goes back when that has ended
    fake.diary.push("disposed");
  });
  source.dispose();
  fake.diary = fake.diary.map((line) => line.replace(/^(record|copy) on \d+/, "$1 on it"));
  graph.launch(a);
  graph.launch(a);
  graph.dispose();
});

await scenarioWithStreams("a graph that reads memory and then writes it is its writer", () => {
  const source = keep(Tensor.zeros([16], { device }));
  const target = keep(make());
  const graph = keep(device.capture(() => {
    target.copyFrom(source);
    source.copyFrom(target);
  }));
  graph.launch(a);
  fake.take();
  keep(make()).copyFrom(source, { stream: b });
});

// ---- waiting ------------------------------------------------------------------------------------------------------------------------

await scenarioWithStreams("synchronize waits for every stream, then for the fault", async () => {
  const done = device.synchronize();
  const first = fake.waits;
  fake.post(2);
  await new Promise((resolve) => setTimeout(resolve, 10));
  const second = fake.waits;
  fake.post(1);
  await done;
  return [first, second, fake.listened];
});

await scenario("waits end in any order, each with its own outcome", async () => {
  const ended: string[] = [];
  const event: DeviceEvent = keep(a.record());
  const waits = [a.synchronize(), b.synchronize(), event.synchronize(), a.synchronize()].map((wait, i) =>
    wait.then(() => ended.push(`${i} resolved`), (error: Error) => ended.push(`${i} ${error.name}: ${error.message}`))
  );
  fake.post(1);
  await waits[0];
  const listened = fake.listened;
  fake.post(1, enums.FAULT);
  fake.post(1, enums.FATAL, "a device in working order");
  fake.post(1);
  await Promise.all(waits);
  return [listened, ended.sort(), fake.listened];
});

await scenario("reading leaves faults alone and uses its staging again", async () => {
  const reads: unknown[] = [];
  for (const status of [enums.OK, enums.FAULT, enums.OK]) {
    const read = y.read();
    fake.post(1, status);
    reads.push((await read).length);
  }
  const square = keep(Tensor.zeros([4, 4], { device }));
  const strided = keep(square.transpose(0, 1));
  fake.diary.push("--");
  const read = strided.read();
  fake.post(1);
  reads.push((await read).length);
  fake.diary.push("--");
  strided.readBlocking();
  return reads;
});

await scenario("between host and device", () => {
  keep(Tensor.from(new Float32Array(3), [3], { device }));
  fake.diary.push("-- numbers are rounded on the host");
  keep(Tensor.from([1, 2, 3], [3], { dtype: "float16", device }));
  fake.diary.push("-- strided");
  keep(keep(Tensor.empty([3, 3], { device })).select(1, 0)).write([1, 2, 3]);
  fake.diary.push("-- to the CPU, narrower there");
  const [half, single] = [keep(Tensor.empty([8], { dtype: "float16", device })), keep(Tensor.empty([8], { device: "cpu" }))];
  single.copyFrom(half);
  fake.diary.push("-- from the CPU, narrower here");
  half.copyFrom(single);
  return thrown(() => x.data);
});

// ---- failure: the last, for it stays -------------------------------------------------------------------------------------------------

await scenario("a device that failed", async () => {
  const [free, live] = [make(16), make(16)];
  free.dispose();
  const graph = device.capture(() => void keep(x.clone()));
  const rejected = device.stream.synchronize().catch((error: Error) => error.name);
  fake.failed = true;
  fake.post(1, enums.FATAL, "a device in working order");
  fake.take();
  return [
    await rejected,
    device.health(),
    thrown(() => make(16)), // a free block would do
    thrown(() => x.copyFrom(y)),
    thrown(() => x.readBlocking()),
    thrown(() => graph.launch()),
    thrown(() => device.trim()),
    await device.synchronize().catch((error: Error) => error.name),
    thrown(() => {
      live.dispose();
      graph.dispose();
      a.dispose();
    }),
  ];
});

// deno-lint-ignore no-console
console.log(JSON.stringify(results));
