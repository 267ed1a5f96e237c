// The caches themselves: what they are made as, what `from` takes and leaves alone, and how they end.
import { describe, expect, test } from "bun:test";
import {
  appendPagedKVCache,
  appendPagedMLAKVCache,
  type DType,
  PagedKVCache,
  PagedMLACache,
  RopeDisposedError,
  RotaryEmbedding,
  shiftPagedKVCache,
  Tensor,
} from "../../mod.ts";
import { liveChange } from "../support/devices.ts";
import { devices, open } from "../rope/support.ts";
import { cacheDTypes, layouts, refuse } from "./support.ts";

// deno-lint-ignore no-explicit-any
type Loose = any;

const notCounts: unknown[] = [null, "3", "", true, {}, [], 3n, NaN, Infinity, -1, 1.5, 2 ** 53, () => 3];

describe.each(devices)("caches on %s", (name) => {
  const device = open(name);

  test("NHD and bfloat16 by default, zeroed, on the default device", () => {
    using cache = new PagedKVCache({ numPages: 3, pageSize: 5, numKVHeads: 2, headDim: 8 });
    expect(cache.k.shape).toEqual([3, 5, 2, 8]);
    expect(cache.v.shape).toEqual([3, 5, 2, 8]);
    expect([cache.layout, cache.dtype, cache.k.dtype, cache.v.dtype]).toEqual(["NHD", "bfloat16", "bfloat16", "bfloat16"]);
    expect([cache.numPages, cache.pageSize, cache.numKVHeads, cache.headDim, cache.headDimV]).toEqual([3, 5, 2, 8, 8]);
    using probe = Tensor.empty([1]);
    expect(cache.device).toBe(probe.device);
    expect(cache.k.readBlocking().every((x) => x === 0) && cache.v.readBlocking().every((x) => x === 0)).toBe(true);
    using mla = new PagedMLACache({ numPages: 2, pageSize: 4 });
    expect([mla.ckv.shape, mla.kpe.shape]).toEqual([[2, 4, 512], [2, 4, 64]]);
    expect([mla.numPages, mla.pageSize, mla.headDimCkv, mla.headDimKpe, mla.dtype]).toEqual([2, 4, 512, 64, "bfloat16"]);
    expect(mla.device).toBe(probe.device);
  });

  test("every layout, dtype and size; nothing leaks", () => {
    const change = liveChange(device, () => {
      for (const layout of layouts) {
        for (const dtype of cacheDTypes) {
          for (
            const [numPages, pageSize, numKVHeads, headDim, headDimV] of [[4, 1, 1, 1, 1], [2, 3, 5, 80, 96], [0, 16, 8, 128, 128]] as const
          ) {
            using cache = new PagedKVCache({ numPages, pageSize, numKVHeads, headDim, headDimV, dtype, layout, device });
            const page = layout === "NHD" ? [pageSize, numKVHeads] : [numKVHeads, pageSize];
            expect([cache.k.shape, cache.v.shape]).toEqual([[numPages, ...page, headDim], [numPages, ...page, headDimV]]);
            expect([cache.k.dtype, cache.v.dtype, cache.dtype, cache.layout]).toEqual([dtype, dtype, dtype, layout]);
            expect(cache.k.isContiguous && cache.v.isContiguous && cache.device === device).toBe(true);
            expect(cache.k.readBlocking().every((x) => Number(x) === 0)).toBe(true);
          }
          using mla = new PagedMLACache({ numPages: 2, pageSize: 3, headDimCkv: 40, headDimKpe: 8, dtype, device });
          expect([mla.ckv.shape, mla.kpe.shape, mla.dtype]).toEqual([[2, 3, 40], [2, 3, 8], dtype]);
        }
      }
    });
    expect(change).toEqual({ bytesInUse: 0, liveTensors: 0 });
  });

  test("from takes views and leaves the tensors their owner's", () => {
    const change = liveChange(device, () => {
      for (const layout of layouts) {
        const page = layout === "NHD" ? [4, 2] : [2, 4];
        for (const shape of [[3, 2, ...page, 6], [3, ...page, 6]]) {
          const given = shape.length === 5
            ? [Tensor.zeros(shape, { device })]
            : [Tensor.zeros(shape, { device }), Tensor.zeros(shape, { device })];
          const [first, second] = given as [Tensor, Tensor | undefined];
          const cache = second === undefined ? PagedKVCache.from(first, { layout }) : PagedKVCache.from(first, second, { layout });
          expect([cache.numPages, cache.pageSize, cache.numKVHeads, cache.headDim, cache.headDimV]).toEqual([3, 4, 2, 6, 6]);
          expect([cache.layout, cache.dtype, cache.k.shape]).toEqual([layout, "float32", [3, ...page, 6]]);
          cache.k.write(Array.from({ length: 144 }, (_, i) => i));
          expect(Number(first.readBlocking()[47])).toBe(47);
          cache.dispose();
          expect([first.disposed, second?.disposed ?? false]).toEqual([false, false]);

          // The other way round the cache keeps the memory.
          using kept = second === undefined ? PagedKVCache.from(first, { layout }) : PagedKVCache.from(first, second, { layout });
          for (const tensor of given) tensor.dispose();
          using k = Tensor.full([1, 2, 6], 9, { device });
          appendPagedKVCache(k, k, kept, { slotMapping: [11] });
          expect(Number(kept.k.readBlocking()[143])).toBe(9);
        }
      }
      using ckv = Tensor.zeros([2, 3, 5], { dtype: "float16", device });
      using kpe = Tensor.zeros([2, 3, 4], { dtype: "float16", device });
      using mla = PagedMLACache.from(ckv, kpe);
      expect([mla.headDimCkv, mla.headDimKpe, mla.dtype, mla.pageSize]).toEqual([5, 4, "float16", 3]);
      mla.dispose();
      expect(ckv.disposed || kpe.disposed).toBe(false);
    });
    expect(change).toEqual({ bytesInUse: 0, liveTensors: 0 });
  });

  test("from takes the caller's arrays, and notices when they are gone", () => {
    if (device.kind !== "cpu") return;
    const array = new Float32Array(2 * 2 * 2 * 4);
    using kv = Tensor.from(array, [1, 2, 2, 2, 4], { device });
    using cache = PagedKVCache.from(kv, { layout: "NHD" });
    using k = Tensor.full([1, 2, 4], 5, { device });
    appendPagedKVCache(k, k, cache, { slotMapping: [1] });
    expect([array[7], array[8], array[31]]).toEqual([0, 5, 5]);
    structuredClone(array, { transfer: [array.buffer] });
    refuse(() => appendPagedKVCache(k, k, cache, { slotMapping: [1] }), "appendPagedKVCache", "cache.k", RopeDisposedError);
  });

  test("a disposed cache is refused everywhere; disposing twice is harmless", () => {
    using embedding = new RotaryEmbedding({ dim: 4 });
    using k = Tensor.zeros([1, 2, 4], { device });
    using cache = new PagedKVCache({ numPages: 1, pageSize: 2, numKVHeads: 2, headDim: 4, layout: "HND", dtype: "float32", device });
    cache.dispose();
    cache.dispose();
    expect(cache.k.disposed && cache.v.disposed).toBe(true);
    expect(cache.numPages).toBe(1);
    const gone = RopeDisposedError;
    const table = { indptr: [0, 1], indices: [0], lastPageLen: [1] };
    refuse(() => appendPagedKVCache(k, k, cache, { slotMapping: [0] }), "appendPagedKVCache", "cache", gone);
    refuse(() => shiftPagedKVCache(cache, table, 1, { embedding }), "shiftPagedKVCache", "cache", gone);
    using mla = new PagedMLACache({ numPages: 1, pageSize: 2, headDimCkv: 4, headDimKpe: 4, dtype: "float32", device });
    using row = Tensor.zeros([1, 4], { device });
    mla.dispose();
    mla.dispose();
    refuse(() => appendPagedMLAKVCache(row, row, mla, { slotMapping: [0] }), "appendPagedMLAKVCache", "cache", gone);

    // A tensor that is the cache's own, disposed of by hand.
    using broken = new PagedKVCache({ numPages: 1, pageSize: 2, numKVHeads: 2, headDim: 4, dtype: "float32", device });
    broken.v.dispose();
    refuse(() => appendPagedKVCache(k, k, broken, { slotMapping: [0] }), "appendPagedKVCache", "cache.v", gone);
  });

  test("options that cannot be", () => {
    const sound = { numPages: 2, pageSize: 2, numKVHeads: 2, headDim: 4, device };
    const operation = "PagedKVCache";
    const make = (options: object): unknown => new PagedKVCache({ ...sound, ...options } as Loose);
    for (const key of ["numPages", "pageSize", "numKVHeads", "headDim"]) {
      for (const value of [...notCounts, undefined, ...key === "numPages" ? [] : [0]]) refuse(() => make({ [key]: value }), operation, key);
    }
    for (const value of [...notCounts, 0]) refuse(() => make({ headDimV: value }), operation, "headDimV");
    for (const value of [null, 0, "", "nhd", "NDH", {}, ["NHD"]]) refuse(() => make({ layout: value }), operation, "layout");
    for (const value of [null, 0, "", "float64", "int32", "uint8", "fp8", {}]) refuse(() => make({ dtype: value }), operation, "dtype");
    for (const value of [null, 0, "gpu", {}]) refuse(() => make({ device: value }), operation, "device");
    for (const options of [{ heads: 2 }, { headDimCkv: 4 }, { pagesize: 2 }]) refuse(() => make(options), operation, "options");
    for (const options of [undefined, null, 3, "x", []]) refuse(() => new PagedKVCache(options as Loose), operation, "options");
    refuse(() => make({ numPages: 2 ** 40, headDim: 2 ** 20 }), operation, "options");
    const latent = (options: object): unknown => new PagedMLACache({ numPages: 2, pageSize: 2, device, ...options } as Loose);
    for (const key of ["headDimCkv", "headDimKpe", "pageSize"]) {
      for (const value of [...notCounts, 0]) refuse(() => latent({ [key]: value }), "PagedMLACache", key);
    }
    for (const value of notCounts) refuse(() => latent({ numPages: value }), "PagedMLACache", "numPages");
    refuse(() => latent({ dtype: "float64" }), "PagedMLACache", "dtype");
    refuse(() => latent({ layout: "NHD" }), "PagedMLACache", "options");
    for (const options of [undefined, null, 3]) refuse(() => new PagedMLACache(options as Loose), "PagedMLACache", "options");
    expect(() => (PagedKVCache as Loose)({})).toThrow(TypeError);
  });

  test("tensors that are no cache", () => {
    const operation = "PagedKVCache.from";
    const from = PagedKVCache.from as Loose;
    const zeros = (shape: number[], dtype: DType = "float32"): Tensor => Tensor.zeros(shape, { dtype, device });
    const change = liveChange(device, () => {
      using k = zeros([2, 3, 4, 5]);
      using kv = zeros([2, 2, 3, 4, 5]);
      const refused: [string, unknown[]][] = [
        ["kv", [undefined, { layout: "NHD" }]],
        ["kv", [null, { layout: "NHD" }]],
        ["kv", [k, { layout: "NHD" }]],
        ["k", [kv, k, { layout: "NHD" }]],
        ["v", [k, kv, { layout: "NHD" }]],
        ["v", [k, null, { layout: "NHD" }]],
        ["v", [k, 3, { layout: "NHD" }]],
        ["options", [k, k]],
        ["options", [kv]],
        ["options", [kv, 3]],
        ["options", [kv, { layout: "NHD", dtype: "float32" }]],
        ["layout", [kv, {}]],
        ["layout", [kv, { layout: "nhd" }]],
        ["layout", [k, k, { layout: null }]],
      ];
      for (const [argument, args] of refused) refuse(() => from(...args), operation, argument);
      for (
        const [shape, dtype] of [[[2, 3, 4, 5], "float64"], [[2, 3, 4, 5], "int32"], [[2, 0, 4, 5], "float32"], [
          [2, 3, 4],
          "float32",
        ]] as const
      ) {
        using bad = zeros([...shape], dtype);
        refuse(() => from(bad, bad, { layout: "NHD" }), operation, "k");
      }
      for (
        const [shape, dtype] of [[[2, 3, 4, 5], "float16"], [[3, 3, 4, 5], "float32"], [[2, 3, 5, 5], "float32"], [
          [2, 4, 3, 5],
          "float32",
        ]] as const
      ) {
        using bad = zeros([...shape], dtype);
        refuse(() => from(k, bad, { layout: "NHD" }), operation, "v");
      }
      using three = zeros([2, 3, 3, 4, 5]);
      refuse(() => from(three, { layout: "NHD" }), operation, "kv");
      using turned = kv.transpose(3, 4);
      refuse(() => from(turned, { layout: "NHD" }), operation, "kv");
      using noPlaces = zeros([2, 2, 4, 0, 5]);
      refuse(() => from(noPlaces, { layout: "HND" }), operation, "kv");
      using wide = zeros([2, 3, 4, 7]);
      using differing = PagedKVCache.from(k, wide, { layout: "HND" });
      expect([differing.headDim, differing.headDimV, differing.pageSize]).toEqual([5, 7, 4]);
      using gone = zeros([2, 3, 4, 5]);
      gone.dispose();
      refuse(() => from(gone, k, { layout: "NHD" }), operation, "k", RopeDisposedError);
      const latent = PagedMLACache.from as Loose;
      using ckv = zeros([2, 3, 4]);
      using other = zeros([2, 4, 4]);
      for (
        const [argument, args] of [["ckv", [k, ckv]], ["kpe", [ckv, k]], ["kpe", [ckv, other]], ["kpe", [ckv]], ["ckv", [3, ckv]]] as const
      ) {
        refuse(() => latent(...args), "PagedMLACache.from", argument);
      }
    });
    expect(change).toEqual({ bytesInUse: 0, liveTensors: 0 });
  });

  test("no cache is a cache", () => {
    using k = Tensor.zeros([1, 2, 4], { device });
    using mla = new PagedMLACache({ numPages: 1, pageSize: 1, device });
    using kv = new PagedKVCache({ numPages: 1, pageSize: 1, numKVHeads: 2, headDim: 4, device });
    const append = appendPagedKVCache as Loose;
    for (const cache of [undefined, null, {}, 3, k, mla, { ...kv }, Object.create(kv)]) {
      refuse(() => append(k, k, cache, { slotMapping: [0] }), "appendPagedKVCache", "cache");
    }
    using row = Tensor.zeros([1, 512], { device });
    using narrow = Tensor.zeros([1, 64], { device });
    for (const cache of [undefined, kv, k]) {
      refuse(() => (appendPagedMLAKVCache as Loose)(row, narrow, cache, { slotMapping: [0] }), "appendPagedMLAKVCache", "cache");
    }
  });
});
