// What the front doors beside the rotations say of mistakes: whole sentences, one of each kind, under the names of the caller's arguments.
import { describe, expect, test } from "bun:test";
import {
  appendPagedKVCache,
  applyRopeAppendPagedKVCache,
  applyRopeWithCosSinCache,
  buildRopeCache,
  getBatchIndicesPositions,
  getSeqLens,
  mlaRopeQuantizeFp8,
  PagedKVCache,
  PagedMLACache,
  ropeQuantizeFp8,
  ropeQuantizeFp8AppendPagedKVCache,
  RotaryEmbedding,
  shiftPagedKVCache,
  Tensor,
} from "../../mod.ts";
import { devices, errorOf, open } from "./support.ts";

describe.each(devices)("messages on %s", (name) => {
  const device = open(name);

  /** Each call must fail with its sentence, and leave nothing behind. */
  function say(cases: readonly (readonly [() => unknown, string])[]): void {
    for (const [call, sentence] of cases) {
      const before = device.memory();
      expect((errorOf(call) as Error).message).toBe(sentence);
      const after = device.memory();
      expect([after.liveTensors, after.bytesInUse]).toEqual([before.liveTensors, before.bytesInUse]);
    }
  }

  const things = () => {
    const stack = new DisposableStack();
    const zeros = (shape: number[], dtype: "float32" | "int32" = "float32"): Tensor => stack.use(Tensor.zeros(shape, { dtype, device }));
    const rope = stack.use(new RotaryEmbedding({ dim: 16, device }));
    const axes = stack.use(new RotaryEmbedding({ dim: 16, axisOfPair: [0, 1, 2, 0, 1, 2, 0, 1], device }));
    const cache = stack.use(new PagedKVCache({ numPages: 2, pageSize: 4, numKVHeads: 2, headDim: 16, dtype: "float8_e4m3fn", device }));
    const mla = stack.use(new PagedMLACache({ numPages: 2, pageSize: 4, headDimCkv: 32, headDimKpe: 16, dtype: "float8_e4m3fn", device }));
    const where = { indptr: [0, 1], indices: [1], batchIndices: [0, 0, 0], positions: [0, 1, 2] };
    return { stack, zeros, rope, axes, cache, mla, where, q: zeros([3, 4, 16]), k: zeros([3, 2, 16]), v: zeros([3, 2, 16]) };
  };

  test("a q that is no rows of heads is named, whatever else follows from its shape", () => {
    const { stack, zeros, rope, cache, mla, where } = things();
    using _ = stack;
    const q = zeros([16]), table = zeros([8, 16]), deep = zeros([1, 1, 3, 4, 16]), k = zeros([3, 16]), rest = zeros([3, 32]);
    const form = "It is [B, S, H, D], [nnz, H, D] or, with headDim, [nnz, H * D].";
    const rank = (door: string, argument: string, shape: string): string =>
      `${door}: ${argument} must be a tensor of rank 2 to 4, got the shape ${shape}. ${form}`;
    say([
      [() => rope.forward(q, null), rank("RotaryEmbedding.forward", "q", "[16]")],
      [() => rope.rotate(q), rank("RotaryEmbedding.rotate", "x", "[16]")],
      [() => rope.forward(deep, null, { positions: [1, 2, 3] }), rank("RotaryEmbedding.forward", "q", "[1, 1, 3, 4, 16]")],
      [() => rope.append(deep, k, null, cache, where), rank("RotaryEmbedding.append", "q", "[1, 1, 3, 4, 16]")],
      [() => applyRopeWithCosSinCache(q, null, [0], table), rank("applyRopeWithCosSinCache", "q", "[16]")],
      [() => ropeQuantizeFp8(q, null), rank("ropeQuantizeFp8", "q", "[16]")],
      [() => mlaRopeQuantizeFp8(deep, k, deep, rest), rank("mlaRopeQuantizeFp8", "qRope", "[1, 1, 3, 4, 16]")],
      [() => applyRopeAppendPagedKVCache(q, k, null, cache, where), rank("applyRopeAppendPagedKVCache", "q", "[16]")],
      [() => ropeQuantizeFp8AppendPagedKVCache(q, k, null, mla, where), rank("ropeQuantizeFp8AppendPagedKVCache", "q", "[16]")],
    ]);
  });

  test("mlaRopeQuantizeFp8 calls q qRope", () => {
    const { stack, zeros, rope, q } = things();
    using _ = stack;
    const k = zeros([3, 16]), qNope = zeros([3, 4, 32]), kNope = zeros([3, 32]);
    const flat = zeros([3, 64]), single = zeros([3, 4, 1]), one = zeros([3, 1]), narrow = zeros([3, 4, 8]), eight = zeros([3, 8]);
    say([
      [
        () => mlaRopeQuantizeFp8(flat, k, qNope, kNope),
        "mlaRopeQuantizeFp8: headDim must be given for a qRope of rank 2, got undefined. It is the D of a qRope of shape [nnz, H * D].",
      ],
      [
        () => mlaRopeQuantizeFp8(single, one, qNope, kNope),
        "mlaRopeQuantizeFp8: qRope must be a tensor whose last dimension, the head dimension, is at least 2, got the shape [3, 4, 1]. " +
        "Channels rotate in pairs.",
      ],
      [
        () => mlaRopeQuantizeFp8(narrow, eight, qNope, kNope, { embedding: rope }),
        "mlaRopeQuantizeFp8: embedding must be one that turns no more than the 8 channels of a head of qRope, got one that turns up to 16.",
      ],
      [
        () => mlaRopeQuantizeFp8(q, eight, qNope, kNope),
        "mlaRopeQuantizeFp8: kRope must be shaped as qRope, [3, 4, 16], but for the number of heads, got [3, 1, 8].",
      ],
    ]);
  });

  test("several axes and a table", () => {
    const { stack, zeros, axes, q, k, v, cache, where } = things();
    using _ = stack;
    const table = zeros([8, 16]), three = zeros([3, 3], "int32"), flat = zeros([3], "int32");
    const why = "A table has one row for each position: tokens that stand on several axes need an embedding with axes.";
    say([
      [
        () => ropeQuantizeFp8(q, k, { cosSinCache: table, positions: three }),
        `ropeQuantizeFp8: positions must be of rank 1, got [3, 3]. ${why}`,
      ],
      [
        () => applyRopeAppendPagedKVCache(q, k, v, cache, where, { cosSinCache: table, positions: [0, 1, 2, 0, 1, 2] }),
        `applyRopeAppendPagedKVCache: positions must be 3 numbers, one for each token, got 6. ${why}`,
      ],
      [
        () => ropeQuantizeFp8(q, k, { embedding: axes, cosSinCache: table }),
        "ropeQuantizeFp8: cosSinCache must be absent where an embedding is given, which has angles of its own, got a Tensor.",
      ],
      [() => axes.cosSin(flat), "RotaryEmbedding.cosSin: positions must be of shape [3, n], a row for each axis, got [3]."],
    ]);
  });

  test("an embedding of other heads", () => {
    const { stack, q, k, v, cache, where } = things();
    using _ = stack;
    using small = new RotaryEmbedding({ dim: 8, device });
    say([
      [
        () => applyRopeAppendPagedKVCache(q, k, v, cache, where, { embedding: small }),
        "applyRopeAppendPagedKVCache: embedding must be of dim 16, the channels of a head of q, got one of dim 8.",
      ],
      [
        () => small.append(q, k, v, cache, where),
        "RotaryEmbedding.append: q must be a tensor whose last dimension is 8, the dim of the embedding, got the shape [3, 4, 16].",
      ],
      [
        () => small.rotate(q),
        "RotaryEmbedding.rotate: x must be a tensor whose last dimension is 8, the dim of the embedding, got the shape [3, 4, 16].",
      ],
    ]);
    // The float8 form takes a q that is wider than what turns.
    const rotated = ropeQuantizeFp8(q, k, { embedding: small });
    rotated.q.dispose();
    rotated.k.dispose();
  });

  test("what a call makes on the way carries its name", () => {
    const { stack, rope } = things();
    using _ = stack;
    const form = { seqLen: 8, headDim: 16, device };
    say([
      [() => buildRopeCache(undefined as never), "buildRopeCache: options must be an object with seqLen and headDim, got undefined."],
      [
        () => buildRopeCache({ ...form, seqLen: 2 ** 40 }),
        "buildRopeCache: seqLen must be an integer from 0 to 2147483648, got 1099511627776.",
      ],
      [
        () => buildRopeCache({ ...form, scaling: { ropeType: "linear", factor: 0 } }),
        "buildRopeCache: scaling.factor must be a positive number, got 0.",
      ],
      [
        () => rope.cosSinCache(2 ** 40),
        "RotaryEmbedding.cosSinCache: maxPosition must be an integer from 0 to 2147483648, got 1099511627776.",
      ],
      [
        () => new PagedKVCache({ numPages: 2 ** 40, pageSize: 2 ** 10, numKVHeads: 1, headDim: 64, device }),
        "PagedKVCache: options must be a cache of fewer than 2^53 bytes, got tensors of the shape [1099511627776, 1024, 1, 64].",
      ],
    ]);
    expect((errorOf(() => buildRopeCache({ ...form, device: "gpu" as "cpu" })) as Error).message).toMatch(
      /^buildRopeCache: device must be/,
    );
    const huge = errorOf(() => new PagedMLACache({ numPages: 2 ** 32, pageSize: 64, device })) as Error;
    expect(huge.message).toMatch(/^PagedMLACache: out of memory/);
  });

  test("an object of a class in the place of options", () => {
    const { stack, rope, cache, where, q, k, v } = things();
    using _ = stack;
    const table = { indptr: [0, 1], indices: [0], lastPageLen: [1] };
    say([
      [
        () => shiftPagedKVCache(cache, table, 1, rope as never),
        "shiftPagedKVCache: options must be an object with the keys embedding, contextLength, stream, got a RotaryEmbedding.",
      ],
      [
        () => rope.append(q, k, v, cache, where, cache as never),
        "RotaryEmbedding.append: options must be an object with the keys positions, offset, indptr, offsets, inverse, headDim, stream, " +
        "qNorm, kNorm, qScale, prefix, contextLength, seqLen, out, scaleQ, scaleK, scaleV, quantizeQ, got a PagedKVCache.",
      ],
      [
        () => rope.append(q, k, v, cache, cache as never),
        "RotaryEmbedding.append: where must be an object with the keys indptr, indices, batchIndices, positions, slotMapping, " +
        "got a PagedKVCache.",
      ],
    ]);
  });

  test("tables that are none", () => {
    const { stack, rope, cache, where, q, k, v } = things();
    using _ = stack;
    using byLength = new RotaryEmbedding({ dim: 16, scaling: { ropeType: "dynamic", factor: 2 }, device });
    const forms = "an object with indptr, indices, batchIndices and positions, or with slotMapping";
    const absent: [unknown, string][] = [[undefined, "undefined"], [null, "null"], ["x", '"x"'], [[0], "an array of 1"], [
      {},
      "none of them",
    ]];
    for (const [given, actual] of absent) {
      const to = given as never;
      say([
        [() => appendPagedKVCache(k, v, cache, to), `appendPagedKVCache: where must be ${forms}, got ${actual}.`],
        [() => rope.append(q, k, v, cache, to), `RotaryEmbedding.append: where must be ${forms}, got ${actual}.`],
        [() => byLength.append(q, k, v, cache, to), `RotaryEmbedding.append: where must be ${forms}, got ${actual}.`],
        [
          () => applyRopeAppendPagedKVCache(q, k, v, cache, to, { embedding: byLength }),
          `applyRopeAppendPagedKVCache: where must be ${forms}, got ${actual}.`,
        ],
      ]);
    }
    const text = "abc" as never;
    const array = "a Tensor or an array of numbers";
    say([
      [
        () => appendPagedKVCache(k, v, cache, { ...where, indices: text }),
        `appendPagedKVCache: where.indices must be ${array}, got "abc".`,
      ],
      [() => appendPagedKVCache(k, v, cache, { ...where, indptr: text }), `appendPagedKVCache: where.indptr must be ${array}, got "abc".`],
      [() => appendPagedKVCache(k, v, cache, { slotMapping: text }), `appendPagedKVCache: where.slotMapping must be ${array}, got "abc".`],
      [() => getSeqLens([0, 1], text, 4), `getSeqLens: lastPageLen must be ${array}, got "abc".`],
      [
        () => getBatchIndicesPositions([0, 1], { length: 1 } as never, 1),
        `getBatchIndicesPositions: seqLens must be ${array}, got an object.`,
      ],
      [
        () => shiftPagedKVCache(cache, undefined as never, 1, { embedding: rope }),
        "shiftPagedKVCache: pageTable must be an object with indptr, indices and lastPageLen, got undefined.",
      ],
      [
        () => shiftPagedKVCache(cache, { indptr: text, indices: [0], lastPageLen: [1] }, 1, { embedding: rope }),
        `shiftPagedKVCache: pageTable.indptr must be ${array}, got "abc".`,
      ],
    ]);
  });
});
