// `where`: every form of it, what is refused with which name, and that a refused call has written nothing and kept nothing.
import { describe, expect, test } from "bun:test";
import {
  appendPagedKVCache,
  appendPagedMLAKVCache,
  type AppendTarget,
  type Indices,
  PagedMLACache,
  RopeDisposedError,
  Tensor,
} from "../../mod.ts";
import { liveChange } from "../support/devices.ts";
import { Random, seeded } from "../support/random.ts";
import { devices, errorOf, open, randomTensor } from "../rope/support.ts";
import { type AsIndices, forms, integers, plan, refuse, Store, tokensOf } from "./support.ts";

// deno-lint-ignore no-explicit-any
type Loose = any;

describe.each(devices)("where on %s", (name) => {
  const device = open(name);

  /** 3 tokens into a cache of 4 pages of 2; `where` changes, from a sound one. */
  function fixture(body: (append: (where: unknown) => void, untouched: () => void) => void): void {
    using store = new Store(new Random(9), device, { pages: 4, places: 2, heads: 1, dim: 4 });
    using k = randomTensor([3, 1, 4], "float32", device);
    body((where) => appendPagedKVCache(k, k, store.cache, where as Loose), () => store.check());
  }

  const sound = { indptr: [0, 2, 3], indices: [3, 0, 1], batchIndices: [0, 0, 1], positions: [1, 2, 0] };

  test(
    "tables in every form are the same bits, mixed too",
    seeded(3, (random) => {
      const heads = 2, dim = 8, pages = 8, places = 3;
      const made = plan(random, pages, places, 3);
      const count = made.slots.length;
      using k = randomTensor([count, heads, dim], "float32", device, 1);
      using v = randomTensor([count, heads, dim], "float32", device, 2);
      const append = (where: AppendTarget): void => {
        using store = new Store(random, device, { pages, places, heads, dim });
        appendPagedKVCache(k, v, store.cache, where);
        [k, v].forEach((tensor, what) =>
          tokensOf(tensor, count).forEach((numbers, token) => {
            const slot = made.slots[token] ?? -1;
            if (slot >= 0) store.putToken(what as 0 | 1, slot, numbers);
          })
        );
        store.check();
      };
      const as = (form: AsIndices, values: number[]): Indices => form(values, device);
      const { indptr, indices, batchIndices, positions } = made;
      for (const [, form] of forms) {
        append({ slotMapping: as(form, made.slots) });
        append({
          indptr: as(form, indptr),
          indices: as(form, indices),
          batchIndices: as(form, batchIndices),
          positions: as(form, positions),
        });
      }
      for (let i = 0; i < 10; ++i) {
        const [a, b, c, d] = [0, 1, 2, 3].map(() => random.pick(forms)[1]) as [AsIndices, AsIndices, AsIndices, AsIndices];
        append({ indptr: as(a, indptr), indices: as(b, indices), batchIndices: as(c, batchIndices), positions: as(d, positions) });
      }
    }),
  );

  test("every kind of typed array is taken", () => {
    for (
      const kind of [Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array, Float16Array, Float32Array]
    ) {
      fixture((append) => append({ slotMapping: kind.from([5, 0, 2]) }));
      fixture((append) => append(Object.fromEntries(Object.entries(sound).map(([key, values]) => [key, kind.from(values)]))));
    }
    for (const kind of [BigInt64Array, BigUint64Array]) fixture((append) => append({ slotMapping: kind.from([5n, 0n, 2n]) }));
  });

  test("page ids behind the last request's, and places of skipped tokens, are nobody's", () => {
    fixture((append) => append({ ...sound, indices: [3, 0, 1, -1, 99], batchIndices: [0, -1, 1], positions: [1, -5, 0] }));
    fixture((append) => append({ ...sound, indptr: [1, 2, 3], indices: [3, 0, 1], positions: [0, 1, 1] }));
  });

  test("entries that cannot be", () => {
    const refused: [string, object][] = [
      ["where.indptr[0]", { indptr: [-1, 2, 3] }],
      ["where.indptr[2]", { indptr: [0, 2, 1] }],
      ["where.indptr[2]", { indptr: [0, 2, 4] }],
      ["where.indptr[1]", { indptr: [0, 1.5, 3] }],
      ["where.indptr[1]", { indptr: [0, NaN, 3] }],
      ["where.indptr[1]", { indptr: [0, "2", 3] }],
      ["where.indptr[1]", { indptr: [0, undefined, 3] }],
      ["where.indptr[1]", { indptr: [0, 2 ** 53, 3] }],
      ["where.indptr", { indptr: [] }],
      ["where.indptr", { indptr: new Int32Array(0) }],
      ["where.indices[1]", { indices: [3, 4, 1] }],
      ["where.indices[2]", { indices: [3, 0, -1] }],
      ["where.indices[0]", { indices: [2 ** 31, 0, 1] }],
      ["where.indices[0]", { indices: [0.5, 0, 1] }],
      ["where.indices[1]", { indices: BigInt64Array.of(3n, 2n ** 62n, 1n) }],
      ["where.batchIndices[1]", { batchIndices: [0, 2, 1] }],
      ["where.batchIndices[0]", { batchIndices: [-2, 0, 1] }],
      ["where.batchIndices[2]", { batchIndices: [0, 0, Infinity] }],
      ["where.batchIndices", { batchIndices: [0, 0] }],
      ["where.batchIndices", { batchIndices: [0, 0, 1, 1] }],
      ["where.positions[1]", { positions: [1, 4, 0] }],
      ["where.positions[2]", { positions: [1, 2, 2] }],
      ["where.positions[0]", { positions: [-1, 2, 0] }],
      ["where.positions[0]", { positions: [0.25, 2, 0] }],
      ["where.positions", { positions: [1, 2] }],
      ["where.positions[2]", { indptr: [0, 2, 2] }], // a request without pages
      ["where.positions[0]", { indptr: integers([0, 2, 3], device), positions: [-1, 2, 0] }],
      ["where.indices[2]", { indptr: integers([0, 2, 3], device), indices: [3, 0, 4] }],
      ["where.indptr[2]", { indptr: [0, 2, 4], indices: integers([3, 0, 1], device) }],
      ["where.batchIndices[1]", { indptr: integers([0, 2, 3], device), batchIndices: [0, 2, 1] }],
    ];
    for (const [argument, changed] of refused) {
      fixture((append, untouched) => {
        refuse(() => append({ ...sound, ...changed }), "appendPagedKVCache", argument);
        untouched();
      });
    }
    const slots: [string, unknown][] = [
      ["where.slotMapping[0]", [8, 0, 1]],
      ["where.slotMapping[2]", [0, 1, -2]],
      ["where.slotMapping[1]", [0, 1.5, 2]],
      ["where.slotMapping[1]", [0, null, 2]],
      ["where.slotMapping[1]", BigInt64Array.of(0n, 2n ** 62n, 2n)],
      ["where.slotMapping[1]", BigUint64Array.of(0n, 2n ** 64n - 1n, 2n)],
      ["where.slotMapping[1]", Float64Array.of(0, 2 ** 40, 2)],
      ["where.slotMapping", [0, 1]],
      ["where.slotMapping", [0, 1, 2, 3]],
      ["where.slotMapping", []],
      ["where.slotMapping[0]", [[0, 1, 2], 1, 2]],
    ];
    for (const [argument, slotMapping] of slots) {
      fixture((append, untouched) => {
        refuse(() => append({ slotMapping }), "appendPagedKVCache", argument);
        untouched();
      });
    }
  });

  test("what is no target", () => {
    const { indptr, indices, batchIndices } = sound;
    using table = integers([0, 1, 2], device);
    const refused: [string, unknown][] = [
      ...[undefined, null, 3, "x", [], [0, 1, 2], new Int32Array(3), table, () => 0].map((where): [string, unknown] => ["where", where]),
      ["where", {}],
      ["where", { slotMapping: undefined }],
      ["where", { slotMapping: [0, 1, 2], indptr }],
      ["where", { slotMapping: [0, 1, 2], positions: [0, 1, 2] }],
      ["where", { ...sound, slotMapping: [0, 1, 2] }],
      ["where", { ...sound, lastPageLen: [1, 1] }],
      ["where", { slot_mapping: [0, 1, 2] }],
      ["where.positions", { indptr, indices, batchIndices }],
      ["where.indptr", { indices }],
      ["where.batchIndices", { indptr, indices, positions: [0, 0, 0] }],
      ["where.indices", { indptr, batchIndices, positions: [0, 0, 0] }],
      ...[null, 3, "012", {}, new Map()].map((value): [string, unknown] => ["where.slotMapping", { slotMapping: value }]),
      ...[null, 3, "012", {}, new DataView(new ArrayBuffer(24))].map((
        value,
      ): [string, unknown] => ["where.indices", { ...sound, indices: value }]),
    ];
    for (const [argument, where] of refused) {
      fixture((append, untouched) => {
        refuse(() => append(where), "appendPagedKVCache", argument);
        untouched();
      });
    }
    fixture((append) => append({ ...sound, slotMapping: undefined }));
  });

  test("tensors of another dtype, rank or length, and disposed ones", () => {
    const float = Tensor.zeros([3], { device }), matrix = Tensor.zeros([3, 1], { dtype: "int32", device });
    const four = Tensor.zeros([4], { dtype: "int32", device }), empty = Tensor.zeros([0], { dtype: "int32", device });
    const gone = Tensor.zeros([3], { dtype: "int32", device });
    gone.dispose();
    const bad: [keyof typeof sound | "slotMapping", Tensor[]][] = [
      ["indptr", [float, matrix, empty]],
      ["indices", [float, matrix]],
      ["batchIndices", [float, matrix, four, empty]],
      ["positions", [float, matrix, four, empty]],
      ["slotMapping", [float, matrix, four, empty]],
    ];
    for (const [key, tensors] of bad) {
      for (const tensor of tensors) {
        fixture((append, untouched) => {
          refuse(
            () => append(key === "slotMapping" ? { slotMapping: tensor } : { ...sound, [key]: tensor }),
            "appendPagedKVCache",
            `where.${key}`,
          );
          untouched();
        });
      }
      fixture((append) => {
        const where = key === "slotMapping" ? { slotMapping: gone } : { ...sound, [key]: gone };
        refuse(() => append(where), "appendPagedKVCache", `where.${key}`, RopeDisposedError);
        const forged = Object.create(Tensor.prototype);
        refuse(
          () => append(key === "slotMapping" ? { slotMapping: forged } : { ...sound, [key]: forged }),
          "appendPagedKVCache",
          `where.${key}`,
        );
      });
    }
    for (const tensor of [float, matrix, four, empty]) tensor.dispose();
  });

  test("tables that are the cache's own memory", () => {
    using cache = new PagedMLACache({ numPages: 2, pageSize: 4, headDimCkv: 8, headDimKpe: 2, dtype: "float32", device });
    using slots = Tensor.fromPointer(cache.ckv.pointer, [2], { dtype: "int32", device, owner: cache });
    using ckv = Tensor.zeros([2, 8], { device });
    using kpe = Tensor.zeros([2, 2], { device });
    refuse(() => appendPagedMLAKVCache(ckv, kpe, cache, { slotMapping: slots }), "appendPagedMLAKVCache", "cache");
    expect(String(errorOf(() => appendPagedMLAKVCache(ckv, kpe, cache, { slotMapping: slots })))).toContain("apart from where.slotMapping");
  });

  test("other arguments that cannot be are named, and nothing is written", () => {
    using store = new Store(new Random(1), device, { pages: 4, places: 2, heads: 2, dim: 4, dimV: 6, dtype: "bfloat16" });
    using eight = new Store(new Random(1), device, { pages: 4, places: 2, heads: 2, dim: 4, dimV: 6, dtype: "float8_e4m3fn" });
    const make = (shape: number[], dtype: "float32" | "float64" | "int32" | "float16" = "float32"): Tensor =>
      Tensor.zeros(shape, { dtype, device });
    const k = make([3, 2, 4]), v = make([3, 2, 6]);
    const slotMapping = [0, 1, 2];
    const append = appendPagedKVCache as Loose;
    const refused: [string, unknown[]][] = [
      ...[undefined, null, 3, [1], {}].flatMap((x): [string, unknown[]][] => [["k", [x, v]], ["v", [k, x]]]),
      ...[[3, 3, 4], [3, 2, 5], [3, 2], [3], [1, 1, 3, 2, 4], [2, 3, 4]].map((shape): [string, unknown[]] => ["k", [make(shape), v]]),
      ...[[3, 2, 4], [3, 1, 6], [2, 2, 6], [1, 3, 2, 6], [3, 12]].map((shape): [string, unknown[]] => ["v", [k, make(shape)]]),
      ["k", [make([3, 2, 4], "float64"), make([3, 2, 6], "float64")]],
      ["k", [make([3, 2, 4], "int32"), v]],
      ["v", [k, make([3, 2, 6], "float16")]],
      ["k", [make([3, 4, 2]).transpose(1, 2), v]],
    ];
    for (const [argument, [a, b]] of refused) refuse(() => append(a, b, store.cache, { slotMapping }), "appendPagedKVCache", argument);
    const options: [string, unknown][] = [
      ...[null, 3, "x", k].map((o): [string, unknown] => ["options", o]),
      ["options", { scale: 1 }],
      ["scaleQ", { scaleQ: 1 }],
      ["quantizeQ", { quantizeQ: true }],
      ["quantizeQ", { quantizeQ: false }],
      ...[0, -1, NaN, Infinity, "1", null, 1n, 1e300, 1e-300].flatMap((
        x,
      ): [string, unknown][] => [["scaleK", { scaleK: x }], ["scaleV", { scaleV: x }]]),
      ...[null, 0, {}].map((stream): [string, unknown] => ["stream", { stream }]),
    ];
    for (const [argument, o] of options) refuse(() => append(k, v, eight.cache, { slotMapping }, o), "appendPagedKVCache", argument);
    for (const key of ["scaleK", "scaleV"]) {
      refuse(() => append(k, v, store.cache, { slotMapping }, { [key]: 1 }), "appendPagedKVCache", key);
    }
    store.check();
    eight.check();

    using mla = new PagedMLACache({ numPages: 2, pageSize: 4, headDimCkv: 8, headDimKpe: 2, dtype: "float8_e5m2", device });
    const latent = appendPagedMLAKVCache as Loose;
    const ckv = make([3, 8]), kpe = make([3, 2]);
    const both: [string, unknown[]][] = [
      ["ckv", [undefined, kpe]],
      ["kpe", [ckv, null]],
      ["ckv", [make([3, 2]), kpe]],
      ["ckv", [make([3, 2, 8]), kpe]],
      ["kpe", [ckv, make([3, 1, 8])]],
      ["ckv", [make([4, 8]), kpe]],
      ["ckv", [make([3, 8], "float16"), kpe]],
      ["kpe", [ckv, make([3, 2], "int32")]],
    ];
    for (const [argument, [a, b]] of both) refuse(() => latent(a, b, mla, { slotMapping }), "appendPagedMLAKVCache", argument);
    expect(String(errorOf(() => latent(make([3, 8], "float16"), kpe, mla, { slotMapping })))).toContain("float32 like kpe");
    refuse(() => latent(ckv, kpe, mla, { slotMapping }, { scaleV: 2 }), "appendPagedMLAKVCache", "scaleV");
    expect(mla.ckv.readBlocking().every((x) => Number(x) === 0)).toBe(true);
  });

  test("host tables cannot be recorded", () => {
    fixture((append, untouched) => {
      using slots = integers([0, 1, 2], device);
      using graph = device.capture(() => {
        refuse(() => append({ slotMapping: [0, 1, 2] }), "appendPagedKVCache", "where.slotMapping");
        refuse(() => append({ ...sound, indptr: slots }), "appendPagedKVCache", "where.indices");
        refuse(() => append(sound), "appendPagedKVCache", "where.indptr");
      });
      graph.launch();
      untouched();
      append({ slotMapping: slots });
    });
  });

  test("what is uploaded is disposed of, refused or not", () => {
    fixture((append) => {
      for (const form of [0, 3]) {
        const change = liveChange(device, () => {
          append(sound);
          append({ slotMapping: BigInt64Array.of(0n, -1n, 3n) });
          errorOf(() => append({ ...sound, positions: [1, 2, 99] }));
          errorOf(() => append({ ...sound, batchIndices: [0] }));
          errorOf(() => append({ slotMapping: [0, 1, form + 97] }));
        });
        expect(change).toEqual({ bytesInUse: 0, liveTensors: 0 });
      }
    });
  });
});
