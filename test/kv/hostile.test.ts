// Tables that nobody should make: whatever stands in them, sound tokens are written, the others are not, nothing outside the cache changes, and
// the next call works. On the host such a table is an error and nothing is written at all.
import { describe, expect, test } from "bun:test";
import {
  appendPagedKVCache,
  appendPagedMLAKVCache,
  type AppendTarget,
  PagedMLACache,
  RopeArgumentError,
  RopeFaultError,
  Tensor,
} from "../../mod.ts";
import { faultOf } from "../support/devices.ts";
import { Random, seeded } from "../support/random.ts";
import { devices, errorOf, numbersOf, open, randomTensor } from "../rope/support.ts";
import { cacheDTypes, integers, layouts, plan, Store, tokensOf } from "./support.ts";

/** Numbers that tables have no use for. */
const wild = [-1, -2, 1, 5, 63, 64, 1000, 2 ** 31 - 1, -(2 ** 31), 2 ** 40, -(2 ** 52), 2 ** 52];

interface Tables {
  readonly indptr: number[];
  readonly indices: number[];
  readonly batchIndices: number[];
  readonly positions: number[];
}

type Where = "skipped" | { readonly slot: number } | { readonly fault: string };

/** Where a token goes by its definition. */
function placeOf({ indptr, indices, batchIndices, positions }: Tables, token: number, pages: number, places: number): Where {
  const request = batchIndices[token] ?? 0, place = positions[token] ?? 0;
  if (request === -1) return "skipped";
  const begin = indptr[request], end = indptr[request + 1];
  if (request < 0 || begin === undefined || end === undefined) return { fault: "request" };
  if (begin < 0 || end < begin || end > indices.length) return { fault: "pages" };
  const entry = begin + Math.floor(place / places);
  if (place < 0 || entry >= end) return { fault: "place" };
  const page = indices[entry] ?? -1;
  return page < 0 || page >= pages ? { fault: "page" } : { slot: page * places + place % places };
}

function slotOf(slot: number, slots: number): Where {
  return slot === -1 ? "skipped" : slot < 0 || slot >= slots ? { fault: "slot" } : { slot };
}

/** Puts wild numbers into a few places of a list. */
function corrupted(random: Random, list: number[]): number[] {
  const copy = [...list];
  for (let i = random.integer(0, 2); i > 0 && copy.length > 0; --i) copy[random.integer(0, copy.length - 1)] = random.pick(wild);
  return copy;
}

describe.each(devices)("hostile tables on %s", (name) => {
  const device = open(name);

  /** Appends by tensors: what is sound is written, and the first fault is one that there is. */
  function attack(store: Store, k: Tensor, v: Tensor, where: AppendTarget, wheres: Where[]): void {
    const call = (): void => appendPagedKVCache(k, v, store.cache, where);
    const faults = wheres.flatMap((place) => place !== "skipped" && "fault" in place ? [place.fault] : []);
    if (faults.length === 0) {
      call();
      device.stream.synchronizeBlocking();
    } else {
      const error = faultOf(device, call);
      if (!(error instanceof RopeFaultError)) throw error;
      if (device.kind === "cpu") expect(error.fault.code).toBe(faults[0] ?? "");
      else expect(faults).toContain(error.fault.code);
      const { index } = error.fault;
      expect(Number.isInteger(index) && index >= 0).toBe(true);
      expect(error.message).toMatch(/not been written|nothing of .* has been written/);
      expect(error.argument).toMatch(/^where\./);
    }
    [k, v].forEach((tensor, what) =>
      tokensOf(tensor, wheres.length).forEach((numbers, token) => {
        const place = wheres[token] ?? "skipped";
        if (place !== "skipped" && "slot" in place) store.putToken(what as 0 | 1, place.slot, numbers);
      })
    );
    store.check();
  }

  test(
    "random ones in tensors",
    seeded(150, (random) => {
      const places = random.pick([1, 3, 16]), pages = 5, heads = random.integer(1, 2), dim = random.pick([1, 8, 24]);
      const made = plan(random, pages, places, random.integer(1, 4));
      const count = made.slots.length;
      const options = {
        pages,
        places,
        heads,
        dim,
        dtype: random.pick(cacheDTypes),
        layout: random.pick(layouts),
        packed: random.next() < 0.5,
      };
      using store = new Store(random, device, options);
      using k = randomTensor([count, heads, dim], "float32", device, random.integer(0, 1e6));
      using v = randomTensor([count, heads, dim], "float32", device, random.integer(0, 1e6));
      // Two good tokens for one place may come in any order; corrupted ones hit others' places, so each place is taken once.
      const taken = new Set<number>();
      const once = (wheres: Where[], skip: (token: number) => void): Where[] =>
        wheres.map((place, token) => {
          if (place === "skipped" || !("slot" in place)) return place;
          if (!taken.has(place.slot)) {
            taken.add(place.slot);
            return place;
          }
          skip(token);
          return "skipped";
        });
      const dtype = (values: number[]): "int32" | "int64" => {
        return values.every((value) => Math.abs(value) < 2 ** 31) && random.next() < 0.5 ? "int32" : "int64";
      };
      const tensor = (values: number[]): Tensor => integers(values, device, dtype(values));

      const tables = {
        indptr: corrupted(random, made.indptr),
        indices: corrupted(random, made.indices),
        batchIndices: corrupted(random, made.batchIndices),
        positions: corrupted(random, made.positions),
      };
      const byTable = once(made.slots.map((_, token) => placeOf(tables, token, pages, places)), (token) => tables.batchIndices[token] = -1);
      attack(store, k, v, {
        indptr: tensor(tables.indptr),
        indices: tensor(tables.indices),
        batchIndices: tensor(tables.batchIndices),
        positions: tensor(tables.positions),
      }, byTable);
      taken.clear();
      const slots = corrupted(random, made.slots);
      const bySlots = once(slots.map((slot) => slotOf(slot, pages * places)), (token) => slots[token] = -1);
      attack(store, k, v, { slotMapping: tensor(slots) }, bySlots);

      // The same on the host: refused whole where a token cannot be placed, and what the host accepts has no fault.
      using host = new Store(random, device, options);
      for (const [where, wheres] of [[tables, byTable], [{ slotMapping: slots }, bySlots]] as const) {
        try {
          appendPagedKVCache(k, v, host.cache, where as AppendTarget);
          expect(wheres.some((place) => place !== "skipped" && "fault" in place)).toBe(false);
          host.accept();
        } catch (error) {
          if (!(error instanceof RopeArgumentError)) throw error;
          expect(error.argument).toMatch(/^where\.\w+(\[\d+\])?$/);
          host.check();
        }
      }
      appendPagedKVCache(k, v, store.cache, { slotMapping: made.slots });
    }),
  );

  test("each fault by name, with what and where", () => {
    using store = new Store(new Random(2), device, { pages: 4, places: 2, heads: 1, dim: 4 });
    using k = randomTensor([3, 1, 4], "float32", device);
    const sound = { indptr: [0, 2, 3], indices: [3, 0, 1], batchIndices: [0, 0, 1], positions: [1, 2, 0] };
    const cases: [string, string, object, object][] = [
      ["request", "where.batchIndices", { batchIndices: [0, 2, 1] }, { request: 2, index: 1, value: 2, limit: 2 }],
      ["request", "where.batchIndices", { batchIndices: [0, 0, -2] }, { request: -2, index: 2, value: -2, limit: 2 }],
      ["pages", "where.indptr", { indptr: [0, 2, 4] }, { request: 1, index: 2, value: 4, limit: 3 }],
      ["pages", "where.indptr", { indptr: [0, 2, 1] }, { request: 1, index: 2, value: 1, limit: 3 }],
      ["pages", "where.indptr", { indptr: [-1, 2, 3] }, { request: 0, index: 0, value: -1, limit: 3 }],
      ["place", "where.positions", { positions: [1, 4, 0] }, { request: 0, index: 1, value: 4, limit: 4 }],
      ["place", "where.positions", { positions: [1, 2, -1] }, { request: 1, index: 2, value: -1, limit: 2 }],
      ["page", "where.indices", { indices: [3, 4, 1] }, { request: 0, index: 1, value: 4, limit: 4 }],
      ["page", "where.indices", { indices: [3, 0, -1] }, { request: 1, index: 2, value: -1, limit: 4 }],
    ];
    for (const [code, argument, changed, fault] of cases) {
      const where = Object.fromEntries(
        Object.entries({ ...sound, ...changed }).map(([key, values]) => [key, integers(values, device, "int64")]),
      );
      const error = faultOf(device, () => appendPagedKVCache(k, k, store.cache, where as unknown as AppendTarget)) as RopeFaultError;
      if (!(error instanceof RopeFaultError)) throw error;
      expect(error.argument).toBe(argument);
      expect(error.fault).toMatchObject({ code, ...fault });
      expect(error.message).not.toMatch(/page_|_indices|fault \d/);
      store.accept();
    }
    using slotMapping = integers([0, 8, -1], device);
    const error = faultOf(device, () => appendPagedKVCache(k, k, store.cache, { slotMapping })) as RopeFaultError;
    expect(error.argument).toBe("where.slotMapping");
    expect(error.fault).toMatchObject({ code: "slot", index: 1, value: 8, limit: 8 });
    if (device.kind === "cpu") expect(error.fault.operation).toBe("appendPagedKVCache");
    expect(error.message).toContain(
      "entry 1 of where.slotMapping is 8, where the cache has 8 slots; nothing of that token has been written",
    );
  });

  test("in a graph the fault is the launch's, and the next launch works", () => {
    using store = new Store(new Random(3), device, { pages: 4, places: 2, heads: 2, dim: 4, dtype: "float16" });
    using k = randomTensor([2, 2, 4], "float32", device);
    using slotMapping = integers([7, 99], device, "int64");
    using graph = device.capture(() => appendPagedKVCache(k, k, store.cache, { slotMapping }));
    const numbers = tokensOf(k, 2);
    const error = faultOf(device, () => graph.launch()) as RopeFaultError;
    expect(error.fault).toMatchObject({ code: "slot", operation: "rotate", value: 99 });
    expect(error.argument).toBe("where.slotMapping");
    for (const what of [0, 1] as const) store.putToken(what, 7, numbers[0] ?? new Float64Array());
    store.check();
    slotMapping.write(BigInt64Array.of(-1n, 3n));
    graph.launch();
    for (const what of [0, 1] as const) store.putToken(what, 3, numbers[1] ?? new Float64Array());
    store.check();
  });

  test("of an MLA cache", () => {
    using cache = new PagedMLACache({ numPages: 2, pageSize: 3, headDimCkv: 5, headDimKpe: 2, dtype: "float32", device });
    using ckv = Tensor.full([3, 5], 1, { device });
    using kpe = Tensor.full([3, 2], 2, { device });
    using slotMapping = integers([6, 5, -7], device);
    const error = faultOf(device, () => appendPagedMLAKVCache(ckv, kpe, cache, { slotMapping }));
    expect(error).toBeInstanceOf(RopeFaultError);
    expect([...numbersOf(cache.ckv)]).toEqual([...new Array<number>(25).fill(0), 1, 1, 1, 1, 1]);
    expect([...numbersOf(cache.kpe)]).toEqual([...new Array<number>(10).fill(0), 2, 2]);
    expect(errorOf(() => appendPagedMLAKVCache(ckv, kpe, cache, { slotMapping: [6, 5, -7] }))).toBeInstanceOf(RopeArgumentError);
  });

  test("tables that are shorter than the tokens, or are no tables for them", () => {
    using store = new Store(new Random(4), device, { pages: 4, places: 2, heads: 1, dim: 4 });
    using k = randomTensor([40, 1, 4], "float32", device);
    const many = (value: number): Tensor => Tensor.full([40], value, { dtype: "int32", device });
    const zero = Tensor.zeros([1], { dtype: "int32", device });
    const none = Tensor.zeros([0], { dtype: "int32", device });
    // No request at all; requests without pages; pages without ids.
    for (
      const [indptr, indices] of [[zero, none], [integers([0, 0, 0], device), none], [integers([0, 5], device), none], [
        integers([0, 2], device),
        zero,
      ]] as const
    ) {
      const error = faultOf(
        device,
        () => appendPagedKVCache(k, k, store.cache, { indptr, indices, batchIndices: many(0), positions: many(0) }),
      );
      expect(error).toBeInstanceOf(RopeFaultError);
      store.check();
    }
    using short = Tensor.zeros([39], { dtype: "int32", device });
    for (const where of [{ slotMapping: short }, { indptr: zero, indices: none, batchIndices: short, positions: many(0) }]) {
      expect(errorOf(() => appendPagedKVCache(k, k, store.cache, where))).toBeInstanceOf(RopeArgumentError);
    }
    store.check();
  });
});
