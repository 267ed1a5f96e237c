// getSeqLens and getBatchIndicesPositions against their definitions, and what is refused.
import { describe, expect, test } from "bun:test";
import { getBatchIndicesPositions, getSeqLens, RopeDisposedError, type RopeFaultError, Tensor } from "../../mod.ts";
import { faultOf, liveChange } from "../support/devices.ts";
import { seeded } from "../support/random.ts";
import { devices, open } from "../rope/support.ts";
import { forms, integers, refuse } from "./support.ts";

// deno-lint-ignore no-explicit-any
type Loose = any;

const read = (tensor: Tensor): number[] => {
  using owned = tensor;
  expect(owned.dtype).toBe("int32");
  return [...owned.readBlocking()].map(Number);
};

describe.each(devices)("tables on %s", (name) => {
  const device = open(name);
  const table = (values: number[], dtype?: "int32" | "int64"): Tensor => integers(values, device, dtype);
  /** Both results of one call. */
  const places = (...args: Parameters<typeof getBatchIndicesPositions>): [number[], number[]] => {
    const { batchIndices, positions } = getBatchIndicesPositions(...args);
    return [read(batchIndices), read(positions)];
  };

  test(
    "random tables in every form",
    seeded(20, (random) => {
      const pageSize = random.pick([1, 3, 16, 32, 1000]);
      const requests = random.integer(0, 6);
      const first = random.integer(0, 3);
      const indptr = [first], lastPageLen: number[] = [], seqLens: number[] = [];
      const appended = [first], batchIndices = new Array<number>(first).fill(-1), positions = new Array<number>(first).fill(-1);
      for (let request = 0; request < requests; ++request) {
        const pages = random.integer(0, 4);
        const last = pages === 0 ? 0 : random.integer(1, pageSize);
        const length = pages === 0 ? 0 : (pages - 1) * pageSize + last;
        const tokens = random.integer(0, Math.min(length, 7));
        indptr.push((indptr.at(-1) ?? 0) + pages);
        lastPageLen.push(last);
        seqLens.push(length);
        appended.push((appended.at(-1) ?? 0) + tokens);
        for (let i = 0; i < tokens; ++i) {
          batchIndices.push(request);
          positions.push(length - tokens + i);
        }
      }
      const padding = random.integer(0, 3);
      const padded = (values: number[]): number[] => [...values, ...new Array<number>(padding).fill(-1)];
      for (const [, form] of forms) {
        const other = random.pick(forms)[1];
        expect(read(getSeqLens(form(indptr, device), other(lastPageLen, device), pageSize))).toEqual(seqLens);
        const got = places(form(appended, device), other(seqLens, device), batchIndices.length + padding);
        expect(got).toEqual([padded(batchIndices), padded(positions)]);
      }
    }),
  );

  test("results lie where the tensors given do, else on the default device", () => {
    using probe = Tensor.empty([1]);
    using host = getSeqLens([0, 1], [3], 4);
    expect(host.device).toBe(probe.device);
    using indptr = table([0, 1]);
    using lastPageLen = table([3], "int64");
    for (const args of [[indptr, [3]], [[0, 1], lastPageLen], [indptr, lastPageLen]] as const) {
      using there = getSeqLens(args[0] as Tensor, args[1] as Tensor, 4);
      expect(there.device).toBe(device);
      expect(there.shape).toEqual([1]);
    }
    const { batchIndices, positions } = getBatchIndicesPositions(indptr, [5], 2);
    expect([batchIndices.device, positions.device]).toEqual([device, device]);
    expect([read(batchIndices), read(positions)]).toEqual([[0, -1], [4, -1]]);
  });

  test("nothing at all is legal", () => {
    expect(read(getSeqLens([0], [], 1))).toEqual([]);
    expect(read(getSeqLens(table([3]), table([]), 1))).toEqual([]);
    expect(places([0], [], 0)).toEqual([[], []]);
    expect(places([0], [], 2)).toEqual([[-1, -1], [-1, -1]]);
    expect(places([0, 0, 0], [0, 7], 0)).toEqual([[], []]);
    expect(places(table([0, 0]), table([9]), 1)).toEqual([[-1], [-1]]);
  });

  test("what cannot be", () => {
    const gone = table([0, 1]);
    gone.dispose();
    using matrix = Tensor.zeros([2, 1], { dtype: "int32", device });
    using float = Tensor.zeros([2], { device });
    const bad: unknown[] = [undefined, null, 3, "01", {}, [0, "1"], [0, 0.5], [0, NaN], [0, 2 ** 53], [0, null], matrix, float];
    const change = liveChange(device, () => {
      for (const value of bad) {
        const entry = Array.isArray(value) ? "[1]" : "";
        refuse(() => read((getSeqLens as Loose)(value, [1], 4)), "getSeqLens", `indptr${entry}`);
        refuse(() => read((getSeqLens as Loose)([0, 1, 2], value, 4)), "getSeqLens", `lastPageLen${entry === "" ? "" : "[0]"}`);
        refuse(() => (getBatchIndicesPositions as Loose)(value, [9], 4), "getBatchIndicesPositions", `indptr${entry}`);
        refuse(
          () => (getBatchIndicesPositions as Loose)([0, 1, 2], value, 4),
          "getBatchIndicesPositions",
          `seqLens${entry === "" ? "" : "[0]"}`,
        );
      }
      for (const value of [undefined, null, "1", 0, -1, 1.5, NaN, 1n, 2 ** 53]) {
        refuse(() => (getSeqLens as Loose)([0, 1], [1], value), "getSeqLens", "pageSize");
        if (value !== 0) refuse(() => (getBatchIndicesPositions as Loose)([0, 1], [1], value), "getBatchIndicesPositions", "nnz");
      }
      const lens: [string, number[], number[]][] = [
        ["indptr", [], []],
        ["indptr[0]", [-1, 1], [1]],
        ["indptr[2]", [0, 2, 1], [1, 1]],
        ["lastPageLen", [0, 1], []],
        ["lastPageLen", [0, 1], [1, 1]],
        ["lastPageLen[0]", [0, 1], [5]],
        ["lastPageLen[0]", [0, 1], [0]],
        ["lastPageLen[0]", [0, 1], [-1]],
        ["lastPageLen[1]", [0, 1, 1], [4, 1]],
      ];
      for (const [argument, indptr, lastPageLen] of lens) refuse(() => getSeqLens(indptr, lastPageLen, 4), "getSeqLens", argument);
      refuse(() => getSeqLens(table([0, 1]), [5], 4), "getSeqLens", "lastPageLen[0]");
      refuse(() => getSeqLens(gone, [1], 4), "getSeqLens", "indptr", RopeDisposedError);
      refuse(() => getSeqLens([0, 1], gone, 4), "getSeqLens", "lastPageLen", RopeDisposedError);
      const batch: [string, number[], number[], number][] = [
        ["indptr", [], [], 0],
        ["indptr[0]", [-1, 1], [1], 3],
        ["indptr[1]", [0, 4], [4], 3],
        ["indptr[2]", [0, 2, 1], [4, 4], 3],
        ["seqLens", [0, 1], [], 1],
        ["seqLens", [0, 1], [1, 1], 1],
        ["seqLens[0]", [0, 3], [2], 3],
        ["seqLens[1]", [0, 0, 0], [0, -1], 3],
      ];
      for (const [argument, indptr, seqLens, nnz] of batch) {
        refuse(() => getBatchIndicesPositions(indptr, seqLens, nnz), "getBatchIndicesPositions", argument);
      }
    });
    expect(change.bytesInUse).toBeLessThanOrEqual(64); // the table that is left to the garbage collector
  });

  test("faults of tensors: named, nothing kept, and the next call works", () => {
    using one = table([1]);
    const lens: [string, string, number[], number[]][] = [
      ["pages", "indptr", [0, 2, 1], [1, 1]],
      ["pages", "indptr", [-1, 2, 3], [1, 1]],
      ["length", "lastPageLen", [0, 1, 2], [4, 5]],
      ["length", "lastPageLen", [0, 1, 2], [0, 4]],
      ["length", "lastPageLen", [0, 1, 1], [4, 1]],
      ["length", "lastPageLen", [0, 2 ** 30, 2 ** 30], [4, 0]],
    ];
    const change = liveChange(device, () => {
      for (const [code, argument, indptr, lastPageLen] of lens) {
        using a = table(indptr);
        using b = table(lastPageLen);
        const error = faultOf(device, () => getSeqLens(a, b, 4).dispose()) as RopeFaultError;
        expect([error.code, error.fault.code, error.argument]).toEqual(["ROPE_FAULT", code, argument]);
        expect(error.message).not.toMatch(/page_|_len|out\[/);
        expect(read(getSeqLens([0, 1], one, 4))).toEqual([1]);
      }
      const batch: [string, string, number[], number[]][] = [
        ["indptr", "indptr", [0, 2, 1], [3, 3]],
        ["indptr", "indptr", [0, 2, 9], [3, 9]],
        ["length", "seqLens", [0, 2, 3], [1, 3]],
        ["length", "seqLens", [0, 2, 3], [2, -1]],
      ];
      for (const [code, argument, indptr, seqLens] of batch) {
        using a = table(indptr);
        using b = table(seqLens, "int64");
        const error = faultOf(device, () => {
          const { batchIndices, positions } = getBatchIndicesPositions(a, b, 4);
          batchIndices.dispose();
          positions.dispose();
        }) as RopeFaultError;
        expect([error.code, error.fault.code, error.argument]).toEqual(["ROPE_FAULT", code, argument]);
        expect(places([0, 1], one, 1)).toEqual([[0], [0]]);
      }
    });
    expect(change).toEqual({ bytesInUse: 0, liveTensors: 0 });
  });

  test("recorded with tensors, and refused with arrays", () => {
    using indptr = table([0, 2, 3]);
    using lastPageLen = table([1, 4]);
    using appended = table([0, 1, 3]);
    let made: Tensor[] = [];
    const graph = device.capture(() => {
      const lengths = getSeqLens(indptr, lastPageLen, 4);
      const { batchIndices, positions } = getBatchIndicesPositions(appended, lengths, 4);
      made = [lengths, batchIndices, positions];
      refuse(() => getSeqLens(indptr, [1, 4], 4), "getSeqLens", "lastPageLen");
      refuse(() => getBatchIndicesPositions([0, 1], lengths, 4), "getBatchIndicesPositions", "indptr");
    });
    graph.launch();
    expect(made.map((tensor) => [...tensor.readBlocking()].map(Number))).toEqual([[5, 4], [0, 1, 1, -1], [4, 2, 3, -1]]);
    lastPageLen.write(Int32Array.of(4, 3));
    appended.write(Int32Array.of(1, 1, 4));
    graph.launch();
    expect(made.map((tensor) => [...tensor.readBlocking()].map(Number))).toEqual([[8, 3], [-1, 1, 1, 1], [-1, 0, 1, 2]]);
    graph.dispose();
    expect(made.every((tensor) => tensor.disposed)).toBe(true);
  });
});
