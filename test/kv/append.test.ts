// Appending: every token is where its place or slot says, converted, and not a byte besides has changed.
import { describe, expect, test } from "bun:test";
import {
  appendPagedKVCache,
  appendPagedMLAKVCache,
  type AppendTarget,
  getBatchIndicesPositions,
  PagedKVCache,
  PagedMLACache,
  Tensor,
  toFloat8,
} from "../../mod.ts";
import { nodesOf } from "../../src/device/graph.ts";
import { Random, seeded } from "../support/random.ts";
import { bytesOf, devices, firstDifference, open, randomTensor, type RotaryDType, samples, tensorOf } from "../rope/support.ts";
import { cacheDTypes, forms, integers, layouts, type Plan, plan, Store, storedRow, tokensOf } from "./support.ts";

const inputs: readonly RotaryDType[] = ["float16", "bfloat16", "float32"];

function targets(made: Plan): AppendTarget[] {
  const { indptr, indices, batchIndices, positions, slots } = made;
  return [{ indptr, indices, batchIndices, positions }, { slotMapping: slots }];
}

function expectTokens(store: Store, made: Plan, k: Tensor, v: Tensor, scaleK: number = 1, scaleV: number = 1): void {
  const count = made.slots.length;
  for (const [what, tensor, scale] of [[0, k, scaleK], [1, v, scaleV]] as const) {
    tokensOf(tensor, count).forEach((numbers, token) => {
      const slot = made.slots[token] ?? -1;
      if (slot >= 0) store.putToken(what, slot, numbers, scale);
    });
  }
  store.check();
}

describe.each(devices)("append on %s", (name) => {
  const device = open(name);

  describe.each(layouts.map((layout) => [layout] as const))("%s", (layout) => {
    for (const places of [1, 3, 16, 32]) {
      test(
        `pages of ${places}: dimensions and dtypes, by table and by slots, packed and apart`,
        seeded(2, (random) => {
          for (const [dim, dimV] of [[64, 64], [80, 96], [112, 112], [160, 64], [192, 128], [576, 512], [7, 1], [1, 33]] as const) {
            const dtype = random.pick(cacheDTypes);
            const packed = dim === dimV && random.next() < 0.5;
            const heads = random.integer(1, 3);
            using store = new Store(random, device, { pages: 7, places, heads, dim, dimV, dtype, layout, packed });
            for (const target of [0, 1]) {
              const made = plan(random, 7, places, random.integer(1, 4));
              const count = made.slots.length;
              const input = random.pick(inputs);
              using k = randomTensor([count, heads, dim], input, device, random.integer(0, 1e6));
              using v = randomTensor([count, heads, dimV], input, device, random.integer(0, 1e6));
              appendPagedKVCache(k, v, store.cache, targets(made)[target] ?? targets(made)[0] as AppendTarget);
              expectTokens(store, made, k, v);
            }
          }
        }),
      );
    }
  });

  test.each(cacheDTypes.map((dtype) => [dtype] as const))("into %s from every dtype, with and without scales", (dtype) => {
    const float8 = dtype.startsWith("float8");
    const random = new Random(1);
    for (const input of inputs) {
      using store = new Store(random, device, { pages: 3, places: 4, heads: 2, dim: 32, dimV: 16, dtype, layout: "HND" });
      const made = plan(random, 3, 4, 2, false);
      const count = made.slots.length;
      // From the smallest subnormals to far beyond what float8 holds.
      const spread = (tensor: Tensor, seed: number): Tensor => {
        const exponents = samples(tensor.size, "float64", seed);
        const numbers = samples(tensor.size, input, seed + 1).map((x, i) => x * 2 ** Math.round(6 * (exponents[i] ?? 0)));
        using source = tensorOf(numbers, [...tensor.shape], input, device);
        return tensor.copyFrom(source);
      };
      using k = spread(Tensor.empty([count, 2, 32], { dtype: input, device }), 3);
      using v = spread(Tensor.empty([count, 2, 16], { dtype: input, device }), 5);
      appendPagedKVCache(k, v, store.cache, targets(made)[0] as AppendTarget);
      expectTokens(store, made, k, v);
      if (!float8) continue;
      for (const [scaleK, scaleV] of [[1, 1], [0.5, 2], [3.3, 0.0123], [448, 1e-3]] as const) {
        appendPagedKVCache(k, v, store.cache, targets(made)[1] as AppendTarget, { scaleK, scaleV });
        expectTokens(store, made, k, v, scaleK, scaleV);
      }
    }
  });

  test.each((["float8_e4m3fn", "float8_e5m2"] as const).map((dtype) => [dtype] as const))("%s saturates, and keeps NaN", (dtype) => {
    const numbers = [Infinity, -Infinity, NaN, 1e30, -1e30, 448, 464, 465, 57344, 61440, 61441, 1e-30, -0, 2 ** -9, 2 ** -10, 2 ** -16];
    using cache = new PagedKVCache({ numPages: 1, pageSize: 1, numKVHeads: 1, headDim: numbers.length, dtype, device });
    using k = Tensor.from(numbers, [1, 1, numbers.length], { device });
    appendPagedKVCache(k, k, cache, { slotMapping: [0] });
    expect([...cache.k.readBlocking()]).toEqual([...toFloat8(numbers, dtype)]);
    expect([...cache.v.readBlocking()]).toEqual([...toFloat8(numbers, dtype)]);
  });

  test("infinities and NaN stay what they are in the other dtypes", () => {
    for (const dtype of ["float16", "bfloat16", "float32"] as const) {
      using cache = new PagedKVCache({ numPages: 1, pageSize: 1, numKVHeads: 1, headDim: 3, dtype, device });
      using k = Tensor.from([Infinity, -Infinity, NaN], [1, 1, 3], { device });
      appendPagedKVCache(k, k, cache, { slotMapping: [0] });
      using back = cache.k.to("float32");
      expect([...back.readBlocking()]).toEqual([Infinity, -Infinity, NaN]);
    }
  });

  test("[nnz, H, D], [B, S, H, D], [nnz, H * D] and slices of one packed qkv are the same bits", () => {
    using qkv = randomTensor([6, 10, 16], "bfloat16", device); // 6 heads of q, 2 of k, 2 of v
    const wanted: Uint8Array[] = [];
    const shapes: ((x: Tensor) => Tensor)[] = [
      (x) => x,
      (x) => x.contiguous(),
      (x) => x.contiguous().reshape([2, 3, 2, 16]),
      (x) => x.reshape([2, 3, 2, 16]),
      (x) => x.contiguous().reshape([6, 32]),
    ];
    for (const shaped of shapes) {
      using cache = new PagedKVCache({ numPages: 4, pageSize: 2, numKVHeads: 2, headDim: 16, dtype: "float8_e4m3fn", device });
      using k = shaped(qkv.slice(1, 6, 8));
      using v = shaped(qkv.slice(1, 8, 10));
      appendPagedKVCache(k, v, cache, { slotMapping: [7, 0, -1, 3, 4, 1] });
      wanted.push(bytesOf(cache.k), bytesOf(cache.v));
      expect(firstDifference(bytesOf(cache.k), wanted[0] ?? new Uint8Array())).toBe(-1);
      expect(firstDifference(bytesOf(cache.v), wanted[1] ?? new Uint8Array())).toBe(-1);
    }
  });

  test("decode: one token of each of many requests, as getBatchIndicesPositions places them", () => {
    const random = new Random(3);
    const requests = 40, places = 8, pages = 120;
    using store = new Store(random, device, { pages, places, heads: 2, dim: 64, dtype: "bfloat16" });
    const made: Plan = { indptr: [0], indices: [], lastPageLen: [], seqLens: [], batchIndices: [], positions: [], slots: [] };
    for (let request = 0; request < requests; ++request) {
      const length = random.integer(1, 3 * places);
      const owned = [2, 1, 0].map((i) => 3 * request + i).slice(0, Math.ceil(length / places));
      made.indices.push(...owned);
      made.indptr.push(made.indices.length);
      made.seqLens.push(length);
      made.slots.push((owned[Math.floor((length - 1) / places)] ?? 0) * places + (length - 1) % places);
    }
    const { batchIndices, positions } = getBatchIndicesPositions(
      integers(Array.from({ length: requests + 1 }, (_, i) => i), device),
      integers(made.seqLens, device),
      requests,
    );
    using k = randomTensor([requests, 2, 64], "bfloat16", device, 1);
    using v = randomTensor([requests, 2, 64], "bfloat16", device, 2);
    appendPagedKVCache(k, v, store.cache, { indptr: made.indptr, indices: made.indices, batchIndices, positions });
    expectTokens(store, made, k, v);
    batchIndices.dispose();
    positions.dispose();
  });

  test.each(cacheDTypes.map((dtype) => [dtype] as const))(
    "MLA into %s: both parts, in every shape, as two slices of one tensor too",
    (dtype) => {
      const random = new Random(5);
      for (const [wide, narrow] of [[512, 64], [40, 6], [3, 1]] as const) {
        const made = plan(random, 5, 4, 3);
        const count = made.slots.length;
        using ckv = randomTensor([count, wide], "bfloat16", device, 1);
        using kpe = randomTensor([count, narrow], "bfloat16", device, 2);
        using both = Tensor.full([5, 4, wide + narrow], 7, { device });
        using whole = both.to(dtype);
        using sliced = PagedMLACache.from(whole.slice(2, 0, wide), whole.slice(2, wide));
        using apart = new PagedMLACache({ numPages: 5, pageSize: 4, headDimCkv: wide, headDimKpe: narrow, dtype, device });
        const [byTable, bySlots] = targets(made) as [AppendTarget, AppendTarget];
        const options = dtype.startsWith("float8") ? { scaleK: 1.5 } : {};
        using ckvHeads = ckv.reshape([count, 1, wide]);
        using kpeHeads = kpe.reshape([count, 1, narrow]);
        appendPagedMLAKVCache(ckv, kpeHeads, sliced, byTable, options);
        appendPagedMLAKVCache(ckvHeads, kpe, apart, bySlots, options);
        for (const [cache, rest] of [[sliced, 7], [apart, 0]] as const) {
          for (const [part, source, width] of [[cache.ckv, ckv, wide], [cache.kpe, kpe, narrow]] as const) {
            const want = new Array<number>(20 * width).fill(storedRow([rest], dtype)[0] ?? NaN);
            tokensOf(source, count).forEach((numbers, token) => {
              const slot = made.slots[token] ?? -1;
              if (slot >= 0) want.splice(slot * width, width, ...storedRow(numbers, dtype, options.scaleK));
            });
            using dense = part.contiguous();
            expect(codesOf(dense)).toEqual(want);
          }
        }
      }
    },
  );

  test("no tokens, no requests, and no pages are legal", () => {
    using cache = new PagedKVCache({ numPages: 2, pageSize: 2, numKVHeads: 1, headDim: 4, dtype: "float32", device });
    using none = new PagedKVCache({ numPages: 0, pageSize: 2, numKVHeads: 1, headDim: 4, dtype: "float32", device });
    using k = Tensor.zeros([0, 1, 4], { device });
    using two = Tensor.full([2, 1, 4], 1, { device });
    for (const into of [cache, none]) {
      appendPagedKVCache(k, k, into, { slotMapping: [] });
      appendPagedKVCache(k, k, into, { indptr: [0], indices: [], batchIndices: [], positions: [] });
      appendPagedKVCache(two, two, into, { indptr: [0, 0], indices: [], batchIndices: [-1, -1], positions: [0, 5] });
      appendPagedKVCache(two, two, into, { slotMapping: integers([-1, -1], device) });
    }
    expect(cache.k.readBlocking().every((x) => x === 0)).toBe(true);
  });

  test("a recorded append is one launch, and replays what its tensors hold then", () => {
    const random = new Random(7);
    for (const packed of [true, false]) {
      using store = new Store(random, device, { pages: 4, places: 3, heads: 2, dim: 24, dtype: "float16", packed, layout: "HND" });
      using k = Tensor.zeros([5, 2, 24], { device });
      using v = Tensor.zeros([5, 2, 24], { device });
      using slotMapping = Tensor.full([5], -1, { dtype: "int64", device });
      using graph = device.capture(() => appendPagedKVCache(k, v, store.cache, { slotMapping }));
      expect(nodesOf(graph)).toBe(1);
      store.check();
      for (const slots of [[0, 1, 2, 3, 4], [11, -1, 10, 9, -1]]) {
        k.write(Float32Array.from(samples(k.size, "float32", slots[0] ?? 0)));
        v.write(Float32Array.from(samples(v.size, "float32", 100 + (slots[0] ?? 0))));
        slotMapping.write(BigInt64Array.from(slots, BigInt));
        graph.launch();
        expectTokens(store, { slots } as Plan, k, v);
      }
    }
    using cache = new PagedMLACache({ numPages: 2, pageSize: 2, device });
    using ckv = Tensor.full([3, 512], 1, { device });
    using kpe = Tensor.full([3, 64], 2, { device });
    const [indptr, indices, batchIndices, positions] = [[0, 2], [1, 0], [0, 0, 0], [0, 1, 2]].map((x) => integers(x, device)) as [
      Tensor,
      Tensor,
      Tensor,
      Tensor,
    ];
    using graph = device.capture(() => appendPagedMLAKVCache(ckv, kpe, cache, { indptr, indices, batchIndices, positions }));
    expect(nodesOf(graph)).toBe(1);
    for (const tensor of [indptr, indices, batchIndices, positions]) tensor.dispose(); // the graph keeps their memory
    graph.launch();
    using back = cache.kpe.to("float32");
    const row = (value: number): number[] => new Array<number>(64).fill(value);
    expect([...back.readBlocking()]).toEqual([...row(2), ...row(0), ...row(2), ...row(2)]);
  });

  test("on a stream of its own", () => {
    using stream = device.createStream();
    using cache = new PagedKVCache({ numPages: 2, pageSize: 2, numKVHeads: 1, headDim: 4, dtype: "float32", device });
    using k = Tensor.full([2, 1, 4], 3, { device });
    for (const [, form] of forms) {
      cache.k.write(new Float32Array(16));
      appendPagedKVCache(k, k, cache, { slotMapping: form([3, 0], device) }, { stream });
      stream.synchronizeBlocking();
      expect([...cache.k.readBlocking()].map(Number)).toEqual([3, 3, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 3, 3, 3, 3]);
    }
  });
});

function codesOf(tensor: Tensor): number[] {
  const bytes = bytesOf(tensor);
  const size = bytes.length / tensor.size;
  return Array.from({ length: tensor.size }, (_, i) => {
    let code = 0;
    for (let byte = size - 1; byte >= 0; --byte) code = code * 256 + (bytes[i * size + byte] ?? 0);
    return code;
  });
}
