// The pool, the order of streams, graphs, waits and failure on CUDA, call by call: what the C library is asked for, and what is not asked. The
// library is a fake that keeps a diary, so that this runs on every machine; ../support/fake_program.ts has the scenarios.
import { beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { root, runFile } from "../support/runtime.ts";

interface Result {
  readonly diary: readonly string[];
  readonly returned: unknown;
}
let results: Record<string, Result> = {};

beforeAll(async () => {
  const { stdout, stderr, code } = await runFile(join(root, "test", "support", "fake_program.ts"));
  if (code !== 0) throw new Error(stderr);
  results = JSON.parse(stdout) as Record<string, Result>;
});

function of(scenario: string): Result {
  const result = results[scenario];
  if (result === undefined) throw new Error(`there is no scenario "${scenario}"`);
  return result;
}

/** The diary of a scenario, as lines or parts separated by commas. */
function diary(scenario: string): string {
  return of(scenario).diary.join(", ");
}

describe("opening a device", () => {
  test("a driver that does not work is an error, of auto too; the list says why", () => {
    const reason = "driver must be one that works, got something else.";
    expect(of("a driver that does not work").returned).toEqual([
      "RopeDeviceError",
      "RopeDeviceError",
      [{ name: "cpu", usable: true }, { name: "cuda:0", usable: false, reason }],
      "cpu",
    ]);
  });

  test("no driver is none: cuda:0 is an error, and the list has the CPU", () => {
    expect(of("no driver").returned).toEqual(["RopeDeviceError", 1]);
  });

  test("auto is cuda:0 where it works, and was not remembered before", () => {
    expect(of("a GPU").returned).toEqual(["cuda:0", "cuda", [9, 0], true, 2]);
  });
});

describe("the pool", () => {
  test("one stream uses its blocks again without a call", () => {
    expect(diary("one stream uses its blocks again")).toBe("allocate 80 on 0, allocate 80 on 0");
    expect(of("one stream uses its blocks again").returned).toBe(2);
  });

  test("trim gives everything back", () => {
    expect(diary("trim gives everything back")).toBe(
      "allocate 80 on 0, allocate 448 on 0, release on 0, release on 0, trim",
    );
    expect(of("trim gives everything back").returned).toBe(0);
  });

  test("beyond the classes memory goes straight back", () => {
    expect(diary("beyond the classes memory goes straight back")).toBe("allocate 2147483649 on 0, release on 0");
    expect(of("beyond the classes memory goes straight back").returned).toBe(0);
  });

  test("where there is no memory it is trimmed and asked again, once; then the error has the numbers", () => {
    expect(diary("no memory: trimmed and asked again, once")).toBe(
      "allocate 4096 on 0, allocate 2048 on 0, no memory for 8192, release on 0, trim, allocate 8192 on 0, " +
        "no memory for 12288, trim, no memory for 12288, allocate 12288 on 0, release on 0, release on 0, release on 0, trim",
    );
    expect(of("no memory: trimmed and asked again, once").returned).toEqual(["Tensor.empty", 12288, 12000, 12288, 0]);
  });
});

describe("streams", () => {
  test.each([
    ["one after another on one stream", "copy on 0, copy on 0, copy on 0"],
    ["a reader waits for the writer, once", "copy on 0, a after 0, copy on a, copy on a"],
    [
      "readers do not wait for each other; the next writer waits for all",
      "a after 0, copy on a, b after 0, copy on b, copy on a, 0 after a, 0 after b, copy on 0, --",
    ],
    ["memory comes home before it is used again", "a after 0, copy on a, 0 after a"],
    [
      "results on a stream are that stream's",
      "allocate 2048 on a, allocate 64 on a, transfer 8 up on a, rotate on a, transfer 8 up on a, rotate on a, transfer 8 up on a, rotate on a, 0 after a",
    ],
    ["a stream's memory outlives it", "0 after c, destroy c"],
    ["order is not asked for twice", "b after 0, b after a, copy on b, copy on b, copy on b, copy on b, copy on b"],
  ])("%s", (scenario, expected) => expect(diary(scenario)).toBe(expected));
});

describe("graphs", () => {
  test("a graph is launched after what its memory was used for, and its memory comes home", () => {
    expect(diary("a graph is launched after what its memory was used for, and its memory comes home")).toBe(
      "allocate 64 on 0, fill on 0, allocate 1280 on 0, allocate 1280 on 0, b after 0, copy on it, " +
        "record on it, allocate 64 on 0, copy on it, allocate 64 on 0, copy on it, disposed, recorded, 0 after b, " +
        "a after 0, launch on a, launch on a, destroy graph, 0 after a",
    );
  });

  test("a graph that reads memory and then writes it is its writer", () => {
    expect(diary("a graph that reads memory and then writes it is its writer")).toBe("allocate 64 on 0, b after a, b after 0, copy on b");
  });
});

describe("waiting", () => {
  test("synchronize waits for every stream, then for the fault", () => {
    expect(diary("synchronize waits for every stream, then for the fault")).toBe(
      "wait for stream a, without faults, wait for stream b, without faults, wait for stream 0, with faults",
    );
    expect(of("synchronize waits for every stream, then for the fault").returned).toEqual([2, 1, false]);
  });

  test("waits end one by one, each with its own outcome; the queue is listened to until the last", () => {
    const [listened, ended, after] = of("waits end in any order, each with its own outcome").returned as [boolean, string[], boolean];
    expect([listened, after]).toEqual([true, false]);
    expect(ended.length).toBe(4);
    expect(ended[0]).toBe("0 resolved");
    expect(ended[1]).toMatch(/^1 RopeFaultError: Stream\.synchronize: /);
    expect(ended[2]).toMatch(/^2 RopeFatalError: DeviceEvent\.synchronize: device must be a device in working order/);
    expect(ended[3]).toBe("3 resolved");
  });

  test("reading leaves faults alone and uses its staging again", () => {
    const { diary: lines, returned } = of("reading leaves faults alone and uses its staging again");
    const once = ["transfer 256 down on 0", "wait for stream 0, without faults", "transfer 256 host on 0"];
    expect(lines).toEqual([
      ...["allocate 256 pinned", ...once, ...once, ...once, "allocate 64 on 0", "fill on 0", "--"],
      ...["allocate 64 pinned", "allocate 64 on 0", "copy on 0", "transfer 64 down on 0", "wait for stream 0, without faults"],
      ...["transfer 64 host on 0", "--", "copy on 0", "transfer 64 down on 0", "synchronize 0"],
    ]);
    expect(returned).toEqual([64, 64, 64, 16]);
  });
});

test("between host and device bytes are packed, and converted where there are more of them", () => {
  const { diary: lines, returned } = of("between host and device");
  expect(lines).toEqual([
    ...["allocate 64 on 0", "transfer 12 up on 0"],
    "-- numbers are rounded on the host",
    ...["allocate 64 on 0", "copy on 0", "transfer 6 up on 0"],
    "-- strided",
    ...["allocate 64 on 0", "copy on 0", "allocate 64 on 0", "transfer 12 up on 0", "copy on 0"],
    "-- to the CPU, narrower there",
    ...["transfer 16 down on 0", "synchronize 0", "copy on 0"],
    "-- from the CPU, narrower here",
    ...["copy on 0", "transfer 16 up on 0"],
  ]);
  expect(returned).toBe("RopeDeviceError");
});

test("a device that failed says so from every call, and lets everything go quietly", () => {
  const fatal = "RopeFatalError";
  expect(of("a device that failed").returned).toEqual([
    fatal,
    { ok: false, error: "it was told to" },
    ...[fatal, fatal, fatal, fatal, fatal, fatal],
    "nothing",
  ]);
});
