// Rotations whose keys and values go into a paged cache: against exact arithmetic, with every byte of the cache and around it accounted for.
import { describe, expect, test } from "bun:test";
import {
  type AppendTarget,
  applyRopeAppendPagedKVCache,
  getBatchIndicesPositions,
  PagedKVCache,
  PagedMLACache,
  ropeQuantizeFp8,
  ropeQuantizeFp8AppendPagedKVCache,
  RotaryEmbedding,
  Tensor,
  toFloat8,
} from "../../mod.ts";
import { cacheDTypes, integers, layouts, type Plan, plan, Store, tokensOf } from "../kv/support.ts";
import { Random, seeded } from "../support/random.ts";
import { expectClose, expectNear, type Float8, float8s, launches, plainPipeline, valuesIn } from "./fused_support.ts";
import { bytesOf, devices, errorOf, numbersOf, open, pairings, randomTensor, type RotaryDType, same } from "./support.ts";

const inputs: readonly RotaryDType[] = ["float16", "bfloat16", "float32"];

/** What a plan says in one of its forms, as arrays or tensors, and the positions to rotate by where that form has none. */
function targetOf(
  made: Plan,
  form: number,
  device: ReturnType<typeof open>,
): { where: AppendTarget; options: { positions?: number[] | Tensor } } {
  const { indptr, indices, batchIndices, positions, slots } = made;
  switch (form % 4) {
    case 0:
      return { where: { indptr, indices, batchIndices, positions }, options: {} };
    case 1:
      return { where: { slotMapping: slots }, options: { positions } };
    case 2: {
      const [a, b, c, d] = [indptr, indices, batchIndices, positions].map((list) => integers(list, device)) as [
        Tensor,
        Tensor,
        Tensor,
        Tensor,
      ];
      return { where: { indptr: a, indices: b, batchIndices: c, positions: d }, options: {} };
    }
    default:
      return { where: { slotMapping: integers(slots, device, "int64") }, options: { positions: integers(positions, device) } };
  }
}

/** [P, pageSize, H, D] whatever the layout is. */
function pagesOf(cache: PagedKVCache, which: "k" | "v"): Tensor {
  return cache.layout === "NHD" ? cache[which].slice(0, 0) : cache[which].transpose(1, 2);
}

/** Compares what tokens left in the cache with exact numbers, and puts up with it: what else is there must be as it was. */
function expectStored(what: string, store: Store, which: "k" | "v", slots: readonly number[], exact: Float64Array, factor: number): void {
  const { cache } = store;
  using pages = pagesOf(cache, which);
  const [, , heads = 0, width = 0] = pages.shape;
  const all = valuesIn(pages);
  const codes = bytesOf(pages), bytes = codes.length / Math.max(all.length, 1);
  slots.forEach((slot, token) => {
    if (slot < 0) return;
    const each = heads * width;
    const row = all.subarray(slot * each, (slot + 1) * each);
    expectNear(
      `${what}, ${which} of token ${token}`,
      row,
      cache.dtype as RotaryDType | Float8,
      exact.subarray(token * each, (token + 1) * each),
      width,
      factor,
    );
    for (let head = 0; head < heads; ++head) {
      const words = Array.from({ length: width }, (_, channel) => {
        const at = (slot * each + head * width + channel) * bytes;
        return codes.subarray(at, at + bytes).reduceRight((sum, byte) => sum * 256 + byte, 0);
      });
      store.put(which === "k" ? 0 : 1, Math.floor(slot / cache.pageSize), slot % cache.pageSize, head, words);
    }
  });
}

describe.each(devices)("rotate and append on %s", (name) => {
  const device = open(name);

  test.each(cacheDTypes.flatMap((dtype) => layouts.map((layout) => [dtype, layout] as const)))(
    "into %s, %s: every input, pairing, odd shape, target and page size",
    (dtype, layout) => {
      const random = new Random(7);
      const float8 = dtype.startsWith("float8");
      let turn = 0;
      for (
        const [dim, rotaryDim, rotaryOffset, dimV] of [[64, 64, 0, 64], [80, 80, 0, 40], [112, 64, 48, 112], [160, 96, 0, 33], [
          192,
          64,
          128,
          128,
        ]] as const
      ) {
        for (const pairing of pairings) {
          const input = inputs[turn % 3] ?? "float32", places = [1, 3, 16][turn % 3] ?? 1, heads = 1 + turn % 3;
          using store = new Store(random, device, {
            pages: 6,
            places,
            heads,
            dim,
            dimV,
            dtype,
            layout,
            packed: dim === dimV && turn % 2 === 0,
          });
          const made = plan(random, 6, places, 3);
          const tokens = made.slots.length;
          using q = randomTensor([tokens, 3, dim], input, device, turn), k = randomTensor([tokens, heads, dim], input, device, turn + 100);
          using v = randomTensor([tokens, heads, dimV], input, device, turn + 200);
          const { where, options } = targetOf(made, turn, device);
          const scales = float8 && turn % 2 === 0 ? { scaleK: 20, scaleV: 0.25 } : {};
          const inverse = turn % 5 === 4;
          using turned = applyRopeAppendPagedKVCache(q, k, v, store.cache, where, {
            ...{ ...options, ...scales, rotaryDim, rotaryOffset, pairing, inverse, ropeTheta: 500 },
          });
          const positions = made.positions.map((position) => position === -1 ? NaN : position);
          const steps = { positions, rotaryDim, rotaryOffset, pairing, inverse, base: 500 };
          const what = `${input}, dim ${dim}, ${pairing}, form ${turn % 4}`;
          expectClose(`${what}, q`, turned, plainPipeline(numbersOf(q), [tokens, 3, dim], steps), dim);
          expectStored(what, store, "k", made.slots, plainPipeline(numbersOf(k), [tokens, heads, dim], steps), scales.scaleK ?? 1);
          expectStored(what, store, "v", made.slots, numbersOf(v), scales.scaleV ?? 1);
          store.check();
          ++turn;
        }
      }
    },
  );

  test.each([["float16"], ["bfloat16"], ["float32"]] as const)(
    "%s into its own kind is forward, then appendPagedKVCache, bit for bit, norms and all",
    (dtype) => {
      const random = new Random(3);
      for (const pairing of pairings) {
        using rope = new RotaryEmbedding({ dim: 80, rotaryDim: 64, rotaryOffset: 8, pairing, attentionFactor: 1.5, device });
        using weight = randomTensor([80], dtype, device, 1), wide = randomTensor([3 * 80], "float32", device, 2);
        for (const layout of layouts) {
          using store = new Store(random, device, { pages: 5, places: 4, heads: 2, dim: 80, dimV: 64, dtype, layout });
          const made = plan(random, 5, 4, 3);
          const tokens = made.slots.length;
          using q = randomTensor([tokens, 3, 80], dtype, device, 3), k = randomTensor([tokens, 2, 80], dtype, device, 4);
          using v = randomTensor([tokens, 2, 64], dtype, device, 5);
          const { indptr, indices, batchIndices, positions } = made;
          const qScale = Array.from({ length: tokens }, (_, i) => 1 + i / 7);
          for (
            const options of [{}, {
              qNorm: { eps: 1e-6, weight: wide, over: "width" },
              kNorm: { eps: 1e-6, weight },
              qScale,
              prefix: 2,
            }] as const
          ) {
            const [wantQ, wantK] = rope.forward(q, k, { ...options, positions });
            tokensOf(wantK, tokens).forEach((row, token) => {
              const slot = made.slots[token] ?? -1;
              if (slot < 0) return;
              store.putToken(0, slot, row);
              store.putToken(1, slot, tokensOf(v, tokens)[token] ?? row);
            });
            using got = rope.append(q, k, v, store.cache, { indptr, indices, batchIndices, positions }, options);
            expect(same(got, wantQ)).toBe(true);
            store.check();
            wantQ.dispose();
            wantK.dispose();
          }
        }
      }
    },
  );

  test.each(float8s.map((dtype) => [dtype] as const))(
    "float32 into %s is rotate, times the scale, toFloat8, bit for bit; quantizeQ too",
    (dtype) => {
      const random = new Random(4);
      using rope = new RotaryEmbedding({ dim: 64, pairing: "interleaved", device });
      using store = new Store(random, device, { pages: 5, places: 4, heads: 2, dim: 64, dtype, layout: "HND" });
      const made = plan(random, 5, 4, 4);
      const tokens = made.slots.length;
      using q = randomTensor([tokens, 3, 64], "float32", device, 3), k = randomTensor([tokens, 2, 64], "float32", device, 4);
      using v = randomTensor([tokens, 2, 64], "float32", device, 5);
      const { where } = targetOf(made, 0, device);
      const norm = { eps: 1e-6 };
      const [wantQ, wantK] = rope.forward(q, k, { positions: made.positions, kNorm: norm });
      const stored = (scaleK: number, scaleV: number): void => {
        made.slots.forEach((slot, token) => {
          if (slot < 0) return;
          store.putToken(0, slot, tokensOf(wantK, tokens)[token] ?? new Float64Array(), scaleK);
          store.putToken(1, slot, tokensOf(v, tokens)[token] ?? new Float64Array(), scaleV);
        });
        store.check();
      };
      using plain = rope.append(q, k, v, store.cache, where, { kNorm: norm });
      expect(same(plain, wantQ)).toBe(true);
      stored(1, 1);
      const options = { kNorm: norm, quantizeQ: true, scaleQ: 7, scaleK: 30, scaleV: 0.5 };
      using quantized = rope.append(q, k, v, store.cache, where, options);
      expect(quantized.dtype).toBe(dtype);
      expect(bytesOf(quantized)).toEqual(toFloat8(numbersOf(wantQ).map((x) => Math.fround(x * 7)), dtype));
      stored(30, 0.5);
      using unscaled = rope.append(q, k, null, store.cache, where, { quantizeQ: true });
      expect(bytesOf(unscaled)).toEqual(toFloat8(numbersOf(wantQ), dtype));
      wantQ.dispose();
      wantK.dispose();
    },
  );

  describe("tokens", () => {
    test("that are padding, or of no request, are not stored; their q passes, or turns", () => {
      using rope = new RotaryEmbedding({ dim: 16, device });
      using cache = new PagedKVCache({ numPages: 2, pageSize: 4, numKVHeads: 1, headDim: 16, dtype: "float32", device });
      using q = randomTensor([5, 2, 16], "float32", device, 1), k = randomTensor([5, 1, 16], "float32", device, 2);
      using turned = rope.rotate(q, { positions: [3, 4, -1, -1, 7] });
      const { batchIndices, positions } = getBatchIndicesPositions(integers([0, 2], device), [5], 4); // two tokens, padded to four
      using places = Tensor.cat([positions, integers([7], device)], 0), owners = Tensor.cat([batchIndices, integers([-1], device)], 0);
      const where = { indptr: [0, 2], indices: [1, 0], batchIndices: owners, positions: places };
      using got = rope.append(q, k, k, cache, where);
      expect(same(got, turned)).toBe(true);
      const written = tokensOf(cache.k, 8).map((row) => row.some((x) => x !== 0));
      expect(written).toEqual([true, false, false, false, false, false, false, true]); // place 3 of page 1, place 0 of page 0
      // Slots with padding among the positions: not stored either.
      using other = new PagedKVCache({ numPages: 2, pageSize: 4, numKVHeads: 1, headDim: 16, dtype: "float32", device });
      using again = rope.append(q, k, k, other, { slotMapping: [7, 0, 1, 2, -1] }, { positions: [3, 4, -1, -1, 7] });
      expect(same(again, turned)).toBe(true);
      expect([same(other.k, cache.k), same(other.v, cache.v)]).toEqual([true, true]);
      batchIndices.dispose();
      positions.dispose();
    });

    test("turn by where.positions unless the options say where they stand; slots need that said", () => {
      using rope = new RotaryEmbedding({ dim: 16, device });
      using cache = new PagedKVCache({ numPages: 2, pageSize: 4, numKVHeads: 1, headDim: 16, dtype: "float32", device });
      using q = randomTensor([2, 2, 1, 16], "float32", device, 1), k = randomTensor([2, 2, 1, 16], "float32", device, 2); // [B, S, H, D]
      const where = { indptr: [0, 1, 2], indices: [1, 0], batchIndices: [0, 0, 1, 1], positions: [2, 3, 0, 1] };
      const cases: [object, object][] = [
        [{}, { positions: [2, 3, 0, 1] }],
        [{ positions: [9, 8] }, { positions: [9, 8] }],
        [{ offset: 50 }, { offset: 50 }],
        [{ offsets: [5, 6] }, { offsets: [5, 6] }],
      ];
      for (const [options, placement] of cases) {
        using want = rope.rotate(k, placement);
        using wantQ = rope.rotate(q, placement);
        using got = rope.append(q, k, null, cache, where, options);
        expect(same(got, wantQ)).toBe(true);
        const rows = tokensOf(cache.k, 8), keys = tokensOf(want, 4);
        expect([rows[6], rows[7], rows[0], rows[1]]).toEqual(keys);
      }
      const slots = { slotMapping: [6, 7, 0, 1] };
      const call = (): Tensor => rope.append(q, k, null, cache, slots);
      expect(errorOf(call)).toMatchObject({ code: "ROPE_ARGUMENT", argument: "positions", operation: "RotaryEmbedding.append" });
      expect((errorOf(call) as Error).message).toMatch(/slots.*do not say/i);
    });

    test("beside each other in rank 2, ragged, and of frequencies that depend on the length", () => {
      const scaling = { ropeType: "dynamic", factor: 2, originalMaxPositionEmbeddings: 16 } as const;
      using rope = new RotaryEmbedding({ dim: 16, maxSeqLen: 16, scaling, device });
      using cache = new PagedKVCache({
        numPages: 20,
        pageSize: 4,
        numKVHeads: 2,
        headDim: 16,
        headDimV: 8,
        dtype: "float32",
        layout: "HND",
        device,
      });
      using q = randomTensor([3, 4 * 16], "float32", device, 1), k = randomTensor([3, 2 * 16], "float32", device, 2);
      using v = randomTensor([3, 2 * 8], "float32", device, 3);
      const indices = Array.from({ length: 20 }, (_, i) => i);
      const positions = [5, 60, 61]; // beyond the original length
      using want = rope.rotate(q, { positions });
      using short = rope.rotate(q, { positions, contextLength: 16 });
      expect(same(want, short)).toBe(false);
      const where = { indptr: [0, 20], indices, batchIndices: [0, 0, 0], positions };
      using got = rope.append(q, k, v, cache, where);
      expect(same(got, want)).toBe(true);
      using byTensor = rope.append(
        q,
        k,
        v,
        cache,
        { ...where, positions: integers(positions, device) },
        device.kind === "cpu" ? {} : { contextLength: 62 },
      );
      expect(same(byTensor, want)).toBe(true);
      using byFunction = applyRopeAppendPagedKVCache(q, k, v, cache, where, { embedding: rope });
      expect(same(byFunction, want)).toBe(true);
      using ofShort = rope.append(q, k, v, cache, where, { contextLength: 16 });
      expect(same(ofShort, short)).toBe(true);
      using values = pagesOf(cache, "v");
      expect(tokensOf(values, 80)[61]).toEqual(numbersOf(v).subarray(32));
    });
  });

  describe("float8 with nopes", () => {
    const cases = float8s.flatMap((dtype) => layouts.map((layout) => [dtype, layout] as const));
    test.each(cases)("%s, %s: a row is [rope | nope], every byte what ropeQuantizeFp8 gives", (dtype, layout) => {
      const random = new Random(11);
      let turn = 0;
      for (const [rope, nope, dimV] of [[64, 64, 128], [32, 96, 80], [80, 32, 112], [96, 64, 7]] as const) {
        const input = inputs[turn % 3] ?? "float32", heads = 1 + turn % 2;
        using store = new Store(random, device, { pages: 5, places: 3, heads, dim: rope + nope, dimV, dtype, layout });
        const made = plan(random, 5, 3, 3);
        const tokens = made.slots.length;
        using q = randomTensor([tokens, 4, rope], input, device, 1), qNope = randomTensor([tokens, 4, nope], input, device, 2);
        using k = randomTensor([tokens, heads, rope], input, device, 3), kNope = randomTensor([tokens, heads, nope], input, device, 4);
        using v = randomTensor([tokens, heads, dimV], input, device, 5);
        const { where, options } = targetOf(made, turn, device);
        const rotation = { pairing: pairings[turn % 3] ?? "half", rotaryDim: rope - 16 * (turn % 2), ropeTheta: 5e5 } as const;
        const scales = { quantScaleQ: 3, quantScaleKv: 12 };
        const want = ropeQuantizeFp8(q, k, { ...rotation, ...scales, qNope, kNope, positions: made.positions, quantizeDtype: dtype });
        const got = ropeQuantizeFp8AppendPagedKVCache(q, k, v, store.cache, where, { ...rotation, ...scales, ...options, qNope, kNope });
        expect([bytesOf(got.q), bytesOf(got.qNope ?? q)]).toEqual([bytesOf(want.q), bytesOf(want.qNope ?? q)]);
        const rows = [want.k, want.kNope ?? want.k].map((tensor) => bytesOf(tensor));
        made.slots.forEach((slot, token) => {
          if (slot < 0) return;
          for (let head = 0; head < heads; ++head) {
            const at = (width: number, from: Uint8Array | undefined): number[] => {
              const first = (token * heads + head) * width;
              return Array.from(from?.subarray(first, first + width) ?? []);
            };
            store.put(0, Math.floor(slot / 3), slot % 3, head, at(rope, rows[0]));
            store.put(0, Math.floor(slot / 3), slot % 3, head, at(nope, rows[1]), rope);
          }
          store.putToken(1, slot, tokensOf(v, tokens)[token] ?? new Float64Array(), 12);
        });
        store.check();
        // Without values, and without nopes: a k as wide as the cache.
        using bare = ropeQuantizeFp8AppendPagedKVCache(q, k, null, store.cache, where, { ...rotation, ...scales, ...options, kNope }).q;
        expect(bytesOf(bare)).toEqual(bytesOf(want.q));
        store.check();
        for (const tensor of [want.q, want.k, want.qNope, want.kNope, got.q, got.qNope]) tensor?.dispose();
        ++turn;
      }
    });

    test("a k as wide as the cache needs no nope; keys and values of one head come without its axis", () => {
      using cache = new PagedKVCache({
        numPages: 2,
        pageSize: 2,
        numKVHeads: 1,
        headDim: 64,
        headDimV: 32,
        dtype: "float8_e4m3fn",
        device,
      });
      using q = randomTensor([3, 2, 64], "bfloat16", device, 1), k = randomTensor([3, 64], "bfloat16", device, 2);
      using v = randomTensor([3, 32], "bfloat16", device, 3);
      const where = { slotMapping: [3, 0, -1] };
      const want = ropeQuantizeFp8(q, k, { positions: [4, 5, 6], rotaryDim: 32 });
      const got = ropeQuantizeFp8AppendPagedKVCache(q, k, v, cache, where, { positions: [4, 5, 6], rotaryDim: 32 });
      expect(bytesOf(got.q)).toEqual(bytesOf(want.q));
      expect(Object.keys(got)).toEqual(["q"]);
      const keys = bytesOf(want.k);
      expect(bytesOf(cache.k)).toEqual(Uint8Array.of(...keys.subarray(64, 128), ...new Uint8Array(128), ...keys.subarray(0, 64)));
      expect(bytesOf(cache.v).subarray(0, 32)).toEqual(toFloat8(numbersOf(v).subarray(32, 64)));
      for (const tensor of [want.q, want.k, got.q]) tensor.dispose();
    });

    test("MLA: k into kpe, kNope into ckv", () => {
      for (const dtype of float8s) {
        for (const apart of [true, false]) {
          using both = Tensor.zeros([4, 2, 600], { dtype, device });
          const ckvPart = both.slice(2, 0, 512), kpePart = both.slice(2, 512, 576);
          using cache = apart ? new PagedMLACache({ numPages: 4, pageSize: 2, dtype, device }) : PagedMLACache.from(ckvPart, kpePart);
          using q = randomTensor([3, 5, 64], "float16", device, 1), qNope = randomTensor([3, 5, 512], "float16", device, 2);
          using k = randomTensor([3, 64], "float16", device, 3), kNope = randomTensor([3, 1, 512], "float16", device, 4);
          const options = { pairing: "interleaved", quantScaleQ: 4, quantScaleKv: 8, ropeTheta: 1e4 } as const;
          const where = { indptr: [0, 1, 3], indices: [3, 0, 2], batchIndices: [1, -1, 0], positions: [2, 5, 1] };
          const want = ropeQuantizeFp8(q, k, { ...options, qNope, kNope, positions: [2, 5, 1], quantizeDtype: dtype });
          const got = ropeQuantizeFp8AppendPagedKVCache(q, k, null, cache, where, { ...options, qNope, kNope });
          expect([bytesOf(got.q), bytesOf(got.qNope ?? q)]).toEqual([bytesOf(want.q), bytesOf(want.qNope ?? q)]);
          const place = (rows: Uint8Array, width: number): Uint8Array => {
            const pages = new Uint8Array(8 * width);
            pages.set(rows.subarray(0, width), 4 * width); // place 2 of request 1: page 2, place 0
            pages.set(rows.subarray(2 * width), 7 * width); // place 1 of request 0: page 3, place 1
            return pages;
          };
          expect(bytesOf(cache.kpe)).toEqual(place(bytesOf(want.k), 64));
          expect(bytesOf(cache.ckv)).toEqual(place(bytesOf(want.kNope ?? want.k), 512));
          for (const tensor of [want.q, want.k, want.qNope, want.kNope, got.q, got.qNope, ckvPart, kpePart]) tensor?.dispose();
        }
      }
    });
  });

  describe("out", () => {
    test("takes q: itself, another, or float8 where q is quantised", () => {
      using cache = new PagedKVCache({ numPages: 2, pageSize: 4, numKVHeads: 1, headDim: 16, dtype: "float8_e5m2", device });
      using rope = new RotaryEmbedding({ dim: 16, device });
      using q = randomTensor([2, 3, 16], "float16", device, 1), k = randomTensor([2, 1, 16], "float16", device, 2);
      const where = { indptr: [0, 1], indices: [0], batchIndices: [0, 0], positions: [1, 2] };
      using want = rope.append(q, k, k, cache, where);
      using copy = q.clone(), half = Tensor.zeros([2, 3, 16], { dtype: "float16", device });
      using eight = Tensor.zeros([2, 3, 16], { dtype: "float8_e5m2", device });
      expect(rope.append(copy, k, k, cache, where, { out: copy })).toBe(copy);
      expect(rope.append(q, k, k, cache, where, { out: half })).toBe(half);
      expect([same(copy, want), same(half, want)]).toEqual([true, true]);
      expect(rope.append(q, k, k, cache, where, { out: eight, quantizeQ: true })).toBe(eight);
      using quantized = applyRopeAppendPagedKVCache(q, k, k, cache, where, { quantizeQ: true });
      expect(same(eight, quantized)).toBe(true);
      const { q: got } = ropeQuantizeFp8AppendPagedKVCache(q, k, k, cache, where, { out: { q: eight } });
      expect([got === eight, same(got, quantized)]).toEqual([true, true]);
    });
  });

  test(
    "random plans: slots and page tables leave the same cache, in every layout and input",
    seeded(10, (random) => {
      const dtype = random.pick(cacheDTypes), input = random.pick(inputs);
      const shape = {
        pages: random.integer(1, 9),
        places: random.integer(1, 7),
        heads: random.integer(1, 3),
        dim: 2 * random.integer(1, 40),
      };
      const dimV = random.integer(1, 64);
      using first = new Store(random, device, { ...shape, dimV, dtype, layout: random.pick(layouts) });
      using second = new Store(random, device, { ...shape, dimV, dtype, layout: random.pick(layouts) });
      for (const store of [first, second]) {
        store.cache.k.copyFrom(Tensor.zeros([...store.cache.k.shape], { device }));
        store.cache.v.copyFrom(Tensor.zeros([...store.cache.v.shape], { device }));
      }
      const made = plan(random, shape.pages, shape.places, random.integer(0, 4));
      const tokens = made.slots.length;
      using q = randomTensor([tokens, 2, shape.dim], input, device, 1),
        k = randomTensor([tokens, shape.heads, shape.dim], input, device, 2);
      using v = randomTensor([tokens, shape.heads, dimV], input, device, 3);
      const options = { pairing: random.pick(pairings), ropeScale: 2 };
      const pages = targetOf(made, random.pick([0, 2]), device), slots = targetOf(made, random.pick([1, 3]), device);
      using a = applyRopeAppendPagedKVCache(q, k, v, first.cache, pages.where, { ...options, ...pages.options });
      using b = applyRopeAppendPagedKVCache(q, k, v, second.cache, slots.where, { ...options, ...slots.options });
      expect(same(a, b)).toBe(true);
      for (const which of ["k", "v"] as const) {
        using left = pagesOf(first.cache, which), right = pagesOf(second.cache, which);
        expect(same(left, right)).toBe(true);
      }
    }),
  );

  test("faults: nothing of that token is written, the others are", () => {
    using rope = new RotaryEmbedding({ dim: 16, device });
    using q = randomTensor([3, 2, 16], "float32", device, 1), k = randomTensor([3, 1, 16], "float32", device, 2);
    using table = rope.cosSinCache(4);
    const good = { indptr: [0, 1, 2], indices: [1, 0], batchIndices: [0, 1, 1], positions: [1, 0, 3] };
    const cases: [Partial<Record<keyof typeof good, number[]>>, object, string, number][] = [
      [{ batchIndices: [0, 2, 1] }, {}, "request", 1],
      [{ positions: [1, 4, 3] }, {}, "place", 1],
      [{ positions: [1, -2, 3] }, {}, "place", 1],
      [{ indices: [1, 2] }, {}, "page", 1],
      [{ indptr: [0, 1, 9] }, {}, "pages", 2],
      [{}, { cosSinCache: table, positions: [0, 4, 1] }, "row", 1],
    ];
    for (const [change, options, code, index] of cases) {
      using cache = new PagedKVCache({ numPages: 2, pageSize: 4, numKVHeads: 1, headDim: 16, dtype: "float32", device });
      const lists = { ...good, ...change };
      const where = {
        indptr: integers(lists.indptr, device),
        indices: integers(lists.indices, device),
        batchIndices: integers(lists.batchIndices, device),
        positions: integers(lists.positions, device),
      };
      using out = Tensor.full([3, 2, 16], 77, { device });
      const error = errorOf(() => {
        applyRopeAppendPagedKVCache(q, k, k, cache, where, { ...options, out });
        device.stream.synchronizeBlocking();
      });
      expect(error).toMatchObject({ code: "ROPE_FAULT", fault: { code, index } });
      const lost = code === "page" || code === "pages" ? [1, 2] : [1]; // of the whole request
      expect(tokensOf(out, 3).map((row) => row.every((x) => x === 77))).toEqual([0, 1, 2].map((t) => lost.includes(t)));
      expect(tokensOf(cache.k, 8).filter((row) => row.some((x) => x !== 0)).length).toBe(3 - lost.length);
      for (const tensor of Object.values(where)) tensor.dispose();
    }
  });

  test("errors name the argument; nothing is written, nothing left behind", () => {
    using stack = new DisposableStack();
    const zeros = (shape: number[], dtype: "float32" | "float16" | "float64" | "float8_e4m3fn" | "int32" = "float16"): Tensor =>
      stack.use(Tensor.zeros(shape, { dtype, device }));
    const rope = stack.use(new RotaryEmbedding({ dim: 16, device }));
    const make = (dtype: "float16" | "float8_e4m3fn"): PagedKVCache =>
      stack.use(new PagedKVCache({ numPages: 2, pageSize: 4, numKVHeads: 1, headDim: 16, headDimV: 8, dtype, device }));
    const cache = make("float16"), eight = make("float8_e4m3fn"), gone = make("float16");
    gone.dispose();
    const mla = stack.use(new PagedMLACache({ numPages: 2, pageSize: 4, headDimCkv: 32, headDimKpe: 16, dtype: "float8_e4m3fn", device }));
    const q = zeros([2, 3, 16]), k = zeros([2, 1, 16]), v = zeros([2, 1, 8]), nope = zeros([2, 32]);
    const where = { indptr: [0, 1], indices: [0], batchIndices: [0, 0], positions: [1, 2] };
    const two = zeros([2, 2, 16]), long = zeros([3], "int32"), float64 = zeros([2, 1, 16], "float64");
    type Case = [call: () => unknown, argument: string, message: RegExp];
    const append = (o: object, c: unknown = eight): () => unknown => () => rope.append(q, k, v, c as PagedKVCache, where, o);
    const apply = (o: object): () => unknown => () => applyRopeAppendPagedKVCache(q, k, v, eight, where, o);
    const fp8 = (o: object, c: unknown = eight, values: Tensor | null = null): () => unknown => () =>
      ropeQuantizeFp8AppendPagedKVCache(q, k, values, c as PagedKVCache, where, o);
    const cases: Case[] = [
      [() => rope.append(q, null as never, v, cache, where), "k", /null/],
      [() => rope.append(q, k, undefined as never, cache, where), "v", /undefined.*null to leave/],
      [() => rope.append(q, two, v, cache, where), "k", /\[nnz, 1, 16\], as the cache has.*\[2, 2, 16\]/],
      [() => rope.append(q, k, k, cache, where), "v", /\[nnz, 1, 8\]/],
      [() => rope.append(float64, float64, null, cache, where), "k", /float16, bfloat16 or float32/],
      [() => rope.append(q, k, v, {} as never, where), "cache", /a PagedKVCache, got an object/],
      [() => rope.append(q, k, v, mla as never, where), "cache", /a PagedKVCache, got a PagedMLACache/],
      [() => rope.append(q, k, v, cache, undefined as never), "where", /undefined/],
      [() => rope.append(q, k, v, cache, { slotMapping: [1] }), "where.slotMapping", /2 numbers/],
      [() => rope.append(q, k, v, cache, { ...where, positions: long }), "where.positions", /\[2\], one for each token of q, got \[3\]/],
      [() => rope.append(q, k, v, cache, { ...where, batchIndices: long }, { offset: 1 }), "where.batchIndices", /\[2\]/],
      [() => rope.append(q, k, v, cache, { ...where, batchIndices: [0, 1] }), "where.batchIndices[1]", /a request, 0 to 0/],
      [append({ scaleK: 2 }, cache), "scaleK", /absent for a cache of float16, got 2/],
      [append({ scaleV: 2 }, cache), "scaleV", /absent for a cache of float16/],
      [append({ scaleQ: 2 }, cache), "scaleQ", /absent for a cache of float16/],
      [append({ quantizeQ: true }, cache), "quantizeQ", /absent for a cache of float16, got true/],
      [append({ quantizeQ: 1 }), "quantizeQ", /true or false/],
      [append({ scaleQ: 2 }), "scaleQ", /without quantizeQ/],
      [append({ scaleK: 0 }), "scaleK", /positive/],
      [append({ scaleV: 1e-50 }), "scaleV", /positive float32/],
      [append({ quantizeQ: true, scaleQ: Infinity }), "scaleQ", /positive/],
      [append({ out: zeros([2, 3, 16], "float8_e4m3fn") }), "out", /float16 like q, got float8/],
      [append({ out: zeros([2, 3, 16]), quantizeQ: true }), "out", /float8_e4m3fn like the cache/],
      [append({ out: zeros([2, 2, 16]) }), "out", /\[2, 3, 16\]/],
      [append({ out: [q, null] }), "out", /a Tensor, got an array of 2/],
      [append({ qNorm: { eps: -1 } }), "qNorm.eps", /at least 0/],
      [append({ offset: 1, positions: [1, 2] }), "options", /only one of/],
      [append({ pairing: "half" }), "options", /the key "pairing"/],
      [apply({ embedding: rope, ropeTheta: 1e4 }), "ropeTheta", /absent where an embedding/],
      [apply({ qNorm: { eps: 1 } }), "options", /the key "qNorm"/],
      [apply({ cosSinCache: zeros([8, 18], "float32") }), "cosSinCache", /at most 16/],
      [fp8({}, cache), "cache", /float8_e4m3fn or float8_e5m2, got one of float16/],
      [fp8({ quantizeDtype: "float8_e5m2" }), "quantizeDtype", /float8_e4m3fn like the cache/],
      [fp8({ kNope: nope }), "kNope", /of 0 channels.*\[k \| kNope\]/],
      [fp8({ kNope: zeros([2, 2, 32]) }), "kNope", /channels/],
      [fp8({ out: q }), "out", /an object with q/],
      [fp8({ out: { q: q } }), "out.q", /float8_e4m3fn like the cache, got float16/],
      [fp8({ out: { qNope: q } }), "out.qNope", /no qNope/],
      [fp8({ quantScaleKv: 1e39 }), "quantScaleKv", /positive float32/],
      [fp8({}, mla), "kNope", /PagedMLACache, whose ckv part/],
      [fp8({ kNope: nope }, mla, v), "v", /null for a PagedMLACache/],
      [fp8({ kNope: zeros([2, 16]) }, mla), "kNope", /\[nnz, 1, 32\]/],
      [() => ropeQuantizeFp8AppendPagedKVCache(q, zeros([2, 1, 8]), null, mla, where, { kNope: nope }), "k", /\[nnz, 1, 16\]/],
      [() => ropeQuantizeFp8AppendPagedKVCache(q, zeros([2, 1, 24]), null, eight, where), "k", /\[nnz, 1, 16\]/],
      [() => ropeQuantizeFp8AppendPagedKVCache(q, zeros([2, 1, 24]), null, eight, where, { kNope: nope }), "k", /at most 16 channels/],
      [() => ropeQuantizeFp8AppendPagedKVCache(q, k, undefined as never, eight, where), "v", /undefined/],
      [() => ropeQuantizeFp8AppendPagedKVCache(q, k, null, eight, { slotMapping: [0, 1] }), "positions", /slots/],
      [() => device.capture(() => rope.append(q, k, v, cache, where)), "where.indptr", /while a graph is recorded/],
    ];
    for (const [call, argument, message] of cases) {
      const error = errorOf(call) as { code: string; argument: string; message: string };
      expect([error.code, error.argument, error.message]).toEqual(["ROPE_ARGUMENT", argument, expect.stringMatching(message)]);
      expect(error.message).not.toMatch(/\b[qkv]_|page_i|_indices|undefined must/);
    }
    const before = device.memory();
    for (const [call] of cases.filter(([, argument]) => !/cache|out|k|Nope/.test(argument))) errorOf(call);
    const after = device.memory();
    expect(after.bytesInUse - before.bytesInUse).toBeLessThanOrEqual(0);
    expect(errorOf(() => rope.append(q, k, v, gone, where))).toMatchObject({ code: "ROPE_DISPOSED", argument: "cache" });
    expect(bytesOf(cache.k).every((byte) => byte === 0) && bytesOf(eight.k).every((byte) => byte === 0)).toBe(true);
  });

  test("one launch each", () => {
    using rope = new RotaryEmbedding({ dim: 64, device });
    using cache = new PagedKVCache({ numPages: 4, pageSize: 4, numKVHeads: 2, headDim: 64, dtype: "bfloat16", device });
    using eight = new PagedKVCache({
      numPages: 4,
      pageSize: 4,
      numKVHeads: 2,
      headDim: 96,
      headDimV: 64,
      dtype: "float8_e4m3fn",
      layout: "HND",
      device,
    });
    using mla = new PagedMLACache({ numPages: 4, pageSize: 4, headDimCkv: 128, dtype: "float8_e4m3fn", device });
    using q = randomTensor([3, 4, 64], "bfloat16", device, 1), k = randomTensor([3, 2, 64], "bfloat16", device, 2);
    using kNope = randomTensor([3, 2, 32], "bfloat16", device, 3), qNope = randomTensor([3, 4, 32], "bfloat16", device, 4);
    using kpe = randomTensor([3, 64], "bfloat16", device, 5), ckv = randomTensor([3, 128], "bfloat16", device, 6);
    const where = {
      indptr: integers([0, 1, 2], device),
      indices: integers([3, 1], device),
      batchIndices: integers([0, 0, 1], device),
      positions: integers([1, 2, 0], device),
    };
    const slots = { slotMapping: integers([13, 14, 4], device, "int64") };
    const { positions } = where;
    expect(launches(device, () => rope.append(q, k, k, cache, where))).toBe(1);
    expect(launches(device, () => rope.append(q, k, null, cache, slots, { positions, qNorm: { eps: 1 }, kNorm: { eps: 1 } }))).toBe(1);
    expect(launches(device, () => applyRopeAppendPagedKVCache(q, k, k, cache, where))).toBe(1);
    expect(launches(device, () => ropeQuantizeFp8AppendPagedKVCache(q, k, k, eight, where, { qNope, kNope }))).toBe(1);
    expect(launches(device, () => ropeQuantizeFp8AppendPagedKVCache(q, kpe, null, mla, slots, { positions, kNope: ckv }))).toBe(1);
    using graph = device.capture(() => rope.append(q, k, k, cache, where));
    graph.launch();
    for (const tensor of [...Object.values(where), slots.slotMapping]) tensor.dispose();
  });
});
