// Shifting: cached keys turn by delta as the reference turns them, once, and nothing else of the cache changes.
import { describe, expect, test } from "bun:test";
import {
  appendPagedKVCache,
  type DType,
  type Indices,
  PagedKVCache,
  PagedMLACache,
  type Pairing,
  type RopeArgumentError,
  RopeDisposedError,
  RopeFaultError,
  RotaryEmbedding,
  shiftPagedKVCache,
  Tensor,
} from "../../mod.ts";
import { referenceRope } from "../../src/testing.ts";
import { faultOf, liveChange } from "../support/devices.ts";
import { Random, seeded } from "../support/random.ts";
import {
  bytesOf,
  devices,
  distance,
  errorOf,
  firstDifference,
  numbersOf,
  open,
  pairings,
  randomTensor,
  samples,
  tensorOf,
  ulp,
} from "../rope/support.ts";
import { cacheDTypes, forms, integers, layouts, type Plan, plan, refuse, Store } from "./support.ts";

// deno-lint-ignore no-explicit-any
type Loose = any;

/** The distance of neighbouring numbers of a cache's dtype at x. */
function spacing(x: number, dtype: DType): number {
  const [mantissa, smallest] = { float8_e4m3fn: [3, -9], float8_e5m2: [2, -16] }[dtype as string] ?? [];
  if (mantissa === undefined || smallest === undefined) return ulp(x, dtype as "float32");
  return x === 0 ? 2 ** smallest : 2 ** Math.max(Math.floor(Math.log2(Math.abs(x))) - mantissa, smallest);
}

/** The slots of each request's tokens. */
function ownedSlots({ indptr, indices, lastPageLen }: Plan, places: number): number[][] {
  return lastPageLen.map((last, request) => {
    const pages = indices.slice(indptr[request], indptr[request + 1]);
    return pages.flatMap((page, i) => {
      return Array.from({ length: i === pages.length - 1 ? last : places }, (_, place) => page * places + place);
    });
  });
}

/** The elements of a slot's heads, [heads, dim], of a cache of any layout. */
function slotOf(cache: PagedKVCache, slot: number): Tensor {
  const page = cache.k.select(0, Math.floor(slot / cache.pageSize));
  return page.select(cache.layout === "NHD" ? 0 : 1, slot % cache.pageSize);
}

function valuesOf(tensor: Tensor): Float64Array {
  using wide = tensor.to("float32");
  return numbersOf(wide);
}

/** The bits of a tensor's elements, one number each. */
function codesOf(tensor: Tensor): number[] {
  const bytes = bytesOf(tensor), size = bytes.length / tensor.size;
  return Array.from(
    { length: tensor.size },
    (_, i) => bytes.subarray(i * size, (i + 1) * size).reduceRight((code, byte) => code * 256 + byte, 0),
  );
}

describe.each(devices)("shift on %s", (name) => {
  const device = open(name);

  test.each(cacheDTypes.flatMap((dtype) => layouts.map((layout) => [dtype, layout] as const)))(
    "%s, %s: every key of the table turns by delta, not a bit besides",
    (dtype, layout) =>
      seeded(4, (random) => {
        const dim = random.pick([64, 80, 96, 112, 160, 192, 576]);
        const [rotaryDim, rotaryOffset] = random.pick([[dim, 0], [dim, 0], [34, 0], [20, 14], [2, dim - 2]] as const);
        const pairing = random.pick(pairings);
        const conjugate = random.next() < 0.3;
        const places = random.pick([1, 3, 16]), heads = random.integer(1, 3), pages = 6;
        using embedding = new RotaryEmbedding({ dim, rotaryDim, rotaryOffset, pairing, conjugate, attentionFactor: 1.7 });
        using store = new Store(random, device, { pages, places, heads, dim, dtype, layout, packed: random.next() < 0.5 });
        using content = randomTensor([...store.cache.k.shape], "float32", device, random.integer(0, 1e6));
        store.cache.k.copyFrom(content);
        store.accept();
        const made = plan(random, pages, places, 4);
        const each = random.next() < 0.5;
        const deltas = made.lastPageLen.map(() => random.pick([0, 1, -1, 77, -4096, 1 << 20]));
        const delta = each ? random.pick(forms)[1](deltas, device) : deltas[0] ?? 0;
        const slots = ownedSlots(made, places);
        const before = slots.map((owned) => owned.map((slot) => valuesOf(slotOf(store.cache, slot))));

        const form = random.pick(forms)[1];
        const table = (values: number[]): Indices => form(values, device);
        shiftPagedKVCache(
          store.cache,
          { indptr: table(made.indptr), indices: table(made.indices), lastPageLen: table(made.lastPageLen) },
          delta,
          { embedding },
        );

        slots.forEach((owned, request) =>
          owned.forEach((slot, i) => {
            const turn = each ? deltas[request] ?? 0 : deltas[0] ?? 0;
            const was = before[request]?.[i] ?? new Float64Array();
            const cached: Pairing = pairing === "interleaved" ? "interleaved" : "half";
            const want = referenceRope(was, [1, heads, dim], {
              positions: Float32Array.of(turn),
              rotaryDim,
              rotaryOffset,
              pairing: cached,
              conjugate,
            });
            const row = slotOf(store.cache, slot);
            const got = valuesOf(row);
            const codes = codesOf(row);
            for (let at = 0; at < want.length; ++at) {
              const passes = at % dim < rotaryOffset || at % dim >= rotaryOffset + rotaryDim || turn === 0;
              const allowed = passes ? 0 : 0.5001 * spacing(Math.abs(want[at] ?? 0) + 2e-6, dtype) + 2e-6;
              if (!(Math.abs((got[at] ?? NaN) - (want[at] ?? NaN)) <= allowed)) {
                throw new Error(`slot ${slot}, channel ${at % dim} by ${turn}: ${got[at]}, the reference ${want[at]}`);
              }
            }
            for (let head = 0; head < heads; ++head) {
              const from = head * dim + rotaryOffset;
              store.put(0, Math.floor(slot / places), slot % places, head, codes.slice(from, from + rotaryDim), rotaryOffset);
            }
          })
        );
        store.check();
      })(),
  );

  test.each(pairings.map((pairing) => [pairing] as const))(
    "%s: by d and by -d gives back, and is appending with shifted positions",
    (pairing) => {
      for (const scaling of [undefined, { ropeType: "yarn", factor: 8, originalMaxPositionEmbeddings: 64 } as const]) {
        using embedding = new RotaryEmbedding({ dim: 32, pairing, ...scaling === undefined ? {} : { scaling } });
        using x = randomTensor([5, 2, 32], "float32", device);
        const make = (positions: number[]): PagedKVCache => {
          const cache = new PagedKVCache({ numPages: 3, pageSize: 2, numKVHeads: 2, headDim: 32, dtype: "float32", layout: "HND", device });
          using k = embedding.rotate(x, { positions });
          appendPagedKVCache(k, x, cache, { slotMapping: [4, 5, 0, 1, 2] });
          return cache;
        };
        const table = { indptr: [0, 2, 3], indices: [2, 0, 1], lastPageLen: [2, 1] };
        using cache = make([100, 101, 102, 103, 7]);
        using shifted = make([70, 71, 72, 73, 12]);
        const before = numbersOf(cache.k);
        shiftPagedKVCache(cache, table, [-30, 5], { embedding });
        expect(distance(numbersOf(cache.k), numbersOf(shifted.k))).toBeLessThan(3e-6);
        expect(distance(numbersOf(cache.k), before)).toBeGreaterThan(0.1);
        shiftPagedKVCache(cache, table, integers([30, -5], device), { embedding });
        expect(distance(numbersOf(cache.k), before)).toBeLessThan(3e-6);
      }
    },
  );

  test("rules that depend on the length turn by the original length's frequencies, or contextLength's", () => {
    const scaling = { ropeType: "dynamic", factor: 4 } as const;
    using embedding = new RotaryEmbedding({ dim: 16, maxSeqLen: 32, scaling });
    using x = randomTensor([1, 1, 16], "float32", device);
    for (const contextLength of [undefined, 32, 400]) {
      using cache = new PagedKVCache({ numPages: 1, pageSize: 1, numKVHeads: 1, headDim: 16, dtype: "float32", device });
      appendPagedKVCache(x, x, cache, { slotMapping: [0] });
      using rotated = embedding.rotate(x, { positions: [300], contextLength: 999 }); // a call between leaves no trace
      const options = contextLength === undefined ? {} : { contextLength };
      shiftPagedKVCache(cache, { indptr: [0, 1], indices: [0], lastPageLen: [1] }, 20, { embedding, ...options });
      using want = embedding.rotate(x, { positions: [20], contextLength: contextLength ?? 32 });
      expect(distance(numbersOf(cache.k), numbersOf(want))).toBeLessThan(1e-6);
      expect(distance(numbersOf(rotated), numbersOf(want))).toBeGreaterThan(0.01);
    }
  });

  test("of MLA the kpe part turns", () => {
    using embedding = new RotaryEmbedding({ dim: 8, pairing: "interleaved_to_half" });
    using cache = new PagedMLACache({ numPages: 2, pageSize: 3, headDimCkv: 4, headDimKpe: 8, dtype: "float32", device });
    const content = samples(48, "float32", 3);
    cache.kpe.write([...content]);
    cache.ckv.write(new Array<number>(24).fill(5));
    shiftPagedKVCache(cache, { indptr: [0, 1], indices: [1], lastPageLen: [2] }, 9, { embedding });
    const got = numbersOf(cache.kpe);
    const want = referenceRope(content.subarray(24, 40), [2, 1, 8], { positions: [9, 9] });
    expect(distance(got.subarray(24, 40), want)).toBeLessThan(1e-6);
    expect(distance(got.subarray(0, 24), content.subarray(0, 24))).toBe(0);
    expect(distance(got.subarray(40), content.subarray(40))).toBe(0);
    expect(cache.ckv.readBlocking().every((value) => value === 5)).toBe(true);
  });

  /** Three requests in a cache of 6 pages of 2; the last has no pages. */
  function fixture(
    body: (cache: PagedKVCache, shift: (changed?: object, delta?: unknown, options?: object) => void, untouched: () => void) => void,
  ): void {
    using embedding = new RotaryEmbedding({ dim: 8 });
    using store = new Store(new Random(4), device, { pages: 6, places: 2, heads: 2, dim: 8, layout: "HND" });
    const table = { indptr: [0, 2, 3, 3], indices: [5, 0, 3], lastPageLen: [1, 2, 0] };
    using content = randomTensor([...store.cache.k.shape], "float32", device);
    store.cache.k.copyFrom(content);
    store.accept();
    const shift = (changed: object = {}, delta: unknown = 3, options: object = {}): void => {
      (shiftPagedKVCache as Loose)(store.cache, { ...table, ...changed }, delta, { embedding, ...options });
    };
    body(store.cache, shift, () => store.check());
  }

  test("what cannot be: named, and nothing is written", () => {
    const gone = integers([5, 0, 3], device);
    gone.dispose();
    const refused: [string, object, unknown?, object?][] = [
      ["pageTable", { pages: [1] }],
      ["pageTable.indptr", { indptr: undefined }],
      ["pageTable.indptr", { indptr: [] }],
      ["pageTable.indptr[2]", { indptr: [0, 2, 1, 3] }],
      ["pageTable.indptr[3]", { indptr: [0, 2, 3, 4] }],
      ["pageTable.indptr[0]", { indptr: [-1, 2, 3, 3] }],
      ["pageTable.indices[1]", { indices: [5, 6, 3] }],
      ["pageTable.indices[0]", { indices: [-1, 0, 3] }],
      ["pageTable.indices", { indices: null }],
      ["pageTable.lastPageLen", { lastPageLen: [1, 2] }],
      ["pageTable.lastPageLen", { lastPageLen: [1, 2, 0, 0] }],
      ["pageTable.lastPageLen[0]", { lastPageLen: [0, 2, 0] }],
      ["pageTable.lastPageLen[1]", { lastPageLen: [1, 3, 0] }],
      ["pageTable.lastPageLen[2]", { lastPageLen: [1, 2, 1] }],
      ["pageTable.indices[1]", { indices: [5, 5, 3] }],
      ["pageTable.indices[2]", { indices: [5, 0, 5] }],
      ["pageTable.indices[2]", { indices: BigInt64Array.of(3n, 0n, 3n) }],
      ...["indptr", "indices", "lastPageLen"].flatMap((key): [string, object][] => [
        [`pageTable.${key}`, { [key]: Tensor.zeros([key === "indptr" ? 4 : 3], { device }) }],
        [`pageTable.${key}`, { [key]: Tensor.zeros([3, 1], { dtype: "int32", device }) }],
      ]),
      ["pageTable.lastPageLen", { lastPageLen: integers([1, 2], device) }],
      ...[null, "3", 1.5, NaN, Infinity, 2 ** 39, -(2 ** 39), 2 ** 53, {}, 3n, [3], [1, 2, 3, 4], undefined].map(
        (delta): [string, object, unknown] => ["delta", {}, delta === undefined ? null : delta],
      ),
      ["delta[1]", {}, [1, 2 ** 39, 3]],
      ["delta[1]", {}, [1, 0.5, 3]],
      ["delta", {}, integers([1, 2], device)],
      ["delta", {}, Tensor.zeros([3], { device })],
      ...[undefined, null, {}, 3].map((embedding): [string, object, unknown, object] => ["embedding", {}, 1, { embedding }]),
      ["embedding", {}, 1, { embedding: new RotaryEmbedding({ dim: 16 }) }],
      ["embedding", {}, 1, { embedding: new RotaryEmbedding({ dim: 8, axes: 2, axisOfPair: [0, 0, 1, 1] }) }],
      ["contextLength", {}, 1, { contextLength: 0 }],
      ["contextLength", {}, 1, { contextLength: "8" }],
      ["stream", {}, 1, { stream: 1 }],
      ["options", {}, 1, { scale: 1 }],
    ];
    fixture((_, shift, untouched) => {
      for (const [argument, changed, delta = 3, options = {}] of refused) {
        refuse(() => shift(changed, delta, options), "shiftPagedKVCache", argument);
      }
      refuse(() => shift({ indices: gone }), "shiftPagedKVCache", "pageTable.indices", RopeDisposedError);
      const embedding = new RotaryEmbedding({ dim: 8 });
      embedding.dispose();
      refuse(() => shift({}, 1, { embedding }), "shiftPagedKVCache", "embedding", RopeDisposedError);
      using heads = new RotaryEmbedding({ dim: 8, axes: 1, frequencies: new Array<number>(12).fill(1) }); // of 3 heads
      refuse(() => shift({}, 1, { embedding: heads }), "shiftPagedKVCache", "cache");
      const loose = shiftPagedKVCache as Loose;
      using kv = new PagedKVCache({ numPages: 1, pageSize: 1, numKVHeads: 1, headDim: 8, device });
      const table = { indptr: [0, 1], indices: [0], lastPageLen: [1] };
      for (const pageTable of [undefined, null, 3, [], [0]]) {
        refuse(() => loose(kv, pageTable, 1, { embedding: heads }), "shiftPagedKVCache", "pageTable");
      }
      for (const options of [undefined, null, 3]) refuse(() => loose(kv, table, 1, options), "shiftPagedKVCache", "options");
      for (const cache of [undefined, null, {}, kv.k]) {
        refuse(() => loose(cache, table, 1, { embedding: heads }), "shiftPagedKVCache", "cache");
      }
      untouched();
    });
  });

  test("a page that stands in the table twice", () => {
    const shared = { indices: [5, 3, 3] };
    fixture((_, shift, untouched) => {
      const error = errorOf(() => shift(shared)) as RopeArgumentError;
      expect(error.message).toContain(
        "pageTable.indices[2] must be a page that stands in the table once, got page 3, which stands at 1 too",
      );
      untouched();
    });
    // What belongs to no request is not in the table.
    fixture((_, shift) => shift({ indices: [5, 0, 3, 3, 99] }));
    for (const dtype of ["int32", "int64"] as const) {
      fixture((cache, shift, untouched) => {
        using indices = integers(shared.indices, device, dtype);
        using indptr = integers([0, 2, 3, 3], device, dtype);
        using lastPageLen = integers([2, 2, 0], device, dtype);
        const before = numbersOf(cache.k);
        const tensors = { indptr, indices, lastPageLen };
        if (device.kind === "cpu") {
          refuse(() => shift(tensors), "shiftPagedKVCache", "pageTable.indices[2]");
          refuse(() => shift({ indices }), "shiftPagedKVCache", "pageTable.indices[2]");
          refuse(() => shift({ ...shared, indptr }), "shiftPagedKVCache", "pageTable.indices[2]");
          untouched();
        }
        // In a graph, as on a GPU, it is a fault, and the page stays as it was.
        using graph = device.capture(() => shift(tensors));
        const error = faultOf(device, () => graph.launch()) as RopeFaultError;
        if (!(error instanceof RopeFaultError)) throw error;
        expect([error.fault.code, error.fault.value, error.argument]).toEqual(["shared", 3, "pageTable.indices"]);
        expect(error.message).toContain("is page 3, which stands in the table more than once; it has been left as it was");
        const after = numbersOf(cache.k);
        const page = (numbers: Float64Array, id: number): Float64Array => numbers.subarray(id * 32, (id + 1) * 32);
        for (const id of [0, 1, 2, 3, 4]) expect(distance(page(after, id), page(before, id))).toBe(0);
        expect(distance(page(after, 5), page(before, 5))).toBeGreaterThan(0.1);
      });
    }
  });

  test("faults of tensors: named, and sound requests turn", () => {
    const cases: [string, string, object, unknown?][] = [
      ["pages", "pageTable.indptr", { indptr: [0, 2, 1, 1] }],
      ["page", "pageTable.indices", { indices: [5, 6, 3] }],
      ["page", "pageTable.indices", { indices: [5, -1, 3] }],
      ["length", "pageTable.lastPageLen", { lastPageLen: [1, 3, 0] }],
      ["length", "pageTable.lastPageLen", { lastPageLen: [1, 0, 0] }],
      ["position", "delta", {}, [3, 2 ** 40, 3]],
    ];
    for (const [code, argument, changed, delta] of cases) {
      fixture((cache, shift) => {
        const before = numbersOf(cache.k);
        const tables = Object.fromEntries(Object.entries(changed).map(([key, values]) => [key, integers(values as number[], device)]));
        const turn = delta === undefined ? 3 : integers(delta as number[], device, "int64");
        const error = faultOf(device, () => shift(tables, turn)) as RopeFaultError;
        if (!(error instanceof RopeFaultError)) throw error;
        expect([error.fault.code, error.argument]).toEqual([code, argument]);
        expect(error.message).toContain("turned");
        const after = numbersOf(cache.k);
        expect(distance(after.subarray(160), before.subarray(160))).toBeGreaterThan(0.1); // page 5 is request 0's
        shift();
      });
    }
  });

  test("recorded, on a stream, and without requests; nothing leaks", () => {
    fixture((cache, shift) => {
      const before = numbersOf(cache.k);
      const [indptr, indices, lastPageLen, delta] = [[0, 2, 3, 3], [5, 0, 3], [1, 2, 0], [4, -9, 7]].map((x) => integers(x, device));
      const graph = device.capture(() => shift({ indptr, indices, lastPageLen }, delta));
      expect(distance(numbersOf(cache.k), before)).toBe(0);
      graph.launch();
      expect(distance(numbersOf(cache.k), before)).toBeGreaterThan(0.1);
      delta?.write(Int32Array.of(-4, 9, 0));
      graph.launch();
      expect(distance(numbersOf(cache.k), before)).toBeLessThan(3e-6);
      using stream = device.createStream();
      const change = liveChange(device, () => {
        graph.dispose();
        for (const tensor of [indptr, indices, lastPageLen, delta]) tensor?.dispose();
        shift({ indptr: [0], indices: [], lastPageLen: [] });
        shift({}, 0);
        shift({}, [1, 2, 3], { stream });
        errorOf(() => shift({ indices: [5, 5, 5] }));
        stream.synchronizeBlocking();
      });
      expect(change.liveTensors).toBeLessThanOrEqual(-4);
      expect(firstDifference(bytesOf(cache.k), bytesOf(cache.k))).toBe(-1);
    });
    using embedding = new RotaryEmbedding({ dim: 8 });
    const change = liveChange(device, () => {
      using cache = new PagedKVCache({ numPages: 2, pageSize: 2, numKVHeads: 2, headDim: 8, device });
      shiftPagedKVCache(cache, { indptr: [0, 2], indices: [1, 0], lastPageLen: [1] }, [5], { embedding });
      using none = new PagedKVCache({ numPages: 0, pageSize: 2, numKVHeads: 2, headDim: 8, device });
      shiftPagedKVCache(none, { indptr: [0, 0], indices: [], lastPageLen: [0] }, [5], { embedding });
    });
    expect(change).toEqual({ bytesInUse: 0, liveTensors: 0 });
  });

  test("heads that turn alike or each its own way", () => {
    const frequencies = [1, 0.5, 0.25, 0.125, 2, 3, 4, 5].map((x) => x / 10); // two heads of four pairs
    using embedding = new RotaryEmbedding({ dim: 8, axes: 1, frequencies });
    using cache = new PagedKVCache({ numPages: 1, pageSize: 2, numKVHeads: 2, headDim: 8, dtype: "float32", device });
    const content = samples(32, "float32", 8);
    using k = tensorOf(content, [2, 2, 8], "float32", device);
    appendPagedKVCache(k, k, cache, { slotMapping: [0, 1] });
    shiftPagedKVCache(cache, { indptr: [0, 1], indices: [0], lastPageLen: [2] }, -3, { embedding });
    expect(distance(numbersOf(cache.k), referenceRope(content, [2, 2, 8], { positions: [-3, -3], axes: 1, frequencies }))).toBeLessThan(
      1e-6,
    );
    expect(distance(numbersOf(cache.v), content)).toBe(0);
  });
});
