// What bad input gets, of every function and every parameter: a RopeError that names the argument, nothing written, nothing leaked.
import { describe, expect, test } from "bun:test";
import * as rope from "../../mod.ts";
import { type Device, RopeArgumentError, RopeDisposedError, type RopeError, type RopeScaling, RotaryEmbedding, Tensor } from "../../mod.ts";
import { bytesOf, devices, errorOf, Fenced, firstDifference, open, randomTensor } from "./support.ts";

// What JavaScript would coerce into a number without a word.
const notNumbers: unknown[] = [null, "3", "", true, {}, [], [3], 3n, () => 3, Symbol("3"), new Date(3)];
const notIntegers: unknown[] = [...notNumbers, NaN, Infinity, -Infinity, 1.9, 2 ** 53, -(2 ** 53)];
const notPositive: unknown[] = [...notNumbers, NaN, Infinity, -Infinity, 0, -0, -1];
const notBooleans: unknown[] = [null, 0, 1, "true", "", {}];
const notWords: unknown[] = [null, 0, 1, "", "Half", "neox", {}, ["half"]];
const notTensors: unknown[] = [undefined, 0, 1, "q", true, {}, [], [1, 2], new Float32Array(384), () => 0, 3n];

/** Options of a call and the values that each must refuse. */
type Refused = Record<string, unknown[]>;

const callOptions: Refused = {
  inverse: notBooleans,
  headDim: [...notIntegers, 0, -1, 63, 65, 128],
  stream: [null, 0, 1, "default", {}, []],
};
const placement: Refused = {
  offset: notIntegers,
  indptr: [null, 0, "012", {}, [], [0, "6"], [0, undefined], [0, 1.5], [0, NaN], [-1, 6], [0, 4, 2], [0, 7], [[0, 6]], [0, 2 ** 53]],
  offsets: [null, 0, "0", {}, [], [0, 0], ["0"], [undefined], [0.5], [NaN], [2 ** 53], [[0]]],
};
const positions: unknown[] = [null, 0, "012345", {}, [], [1], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, "5"], [0, 1, 2, 3, 4, undefined], [[
  0,
  1,
  2,
  3,
  4,
  5,
]], () => 0];
const functional: Refused = {
  ...callOptions,
  rotaryDim: [...notIntegers, -2, 0, 1, 7, 66],
  rotaryOffset: [...notIntegers, -1, 1, 64, 65],
  pairing: notWords,
  angles: notWords,
  ropeScale: notPositive,
  ropeTheta: notPositive,
};
const llama31: Refused = { lowFreqFactor: [...notPositive, 5], highFreqFactor: [...notPositive, 0.5], oldContextLen: notPositive };
const unknown: Refused = { Offset: [3], position_ids: [[1]], interleave: [true], scaleK: [1], embedding: [{}] };
const plain: Refused = { ...unknown, qNorm: [{}], kNorm: [{}], qScale: [1], prefix: [0, 1] }; // only embeddings have them
const eps = 1e-6;
const norms: unknown[] = [
  ...[null, 0, "rms", [], {}, new Float32Array(64), { weight: undefined }, { eps: -1 }, { eps: NaN }, { eps: Infinity }, { eps: "1e-6" }],
  ...[{ eps, when: "later" }, { eps, when: true }, { eps, over: "row" }, { eps, over: null }, { eps, unitOffset: 1 }, {
    eps,
    epsilon: eps,
  }],
  ...[{ eps, unitOffset: true }, { eps, weight: null }, { eps, weight: [1] }, { eps, weight: new Float32Array(64) }],
];
const fused: Refused = {
  qNorm: norms,
  kNorm: norms,
  qScale: [null, 1, "1", {}, [], [1], [1, 1, 1, 1, 1, "1"], [1, 1, 1, 1, 1, undefined], new Float32Array(7)],
  prefix: [...notIntegers, -1],
};
const embedded: Refused = {
  ...fused,
  ...placement,
  ...callOptions,
  positions,
  contextLength: [...notIntegers, 0, -1],
  seqLen: [...notIntegers, -1, 5, 7],
};

interface Callable {
  readonly name: string;
  readonly inplace: boolean;
  readonly refused: Refused;
  call(q: unknown, k: unknown, options?: unknown): unknown;
}

function callables(device: Device): { all: Callable[]; dispose(): void } {
  const embedding = new RotaryEmbedding({ dim: 64, device });
  const loose = rope as unknown as Record<string, (...args: unknown[]) => unknown>;
  const all: Callable[] = [];
  for (const base of ["applyRope", "applyLlama31Rope"]) {
    for (const ids of ["", "PosIds"]) {
      for (const inplace of ["", "Inplace"]) {
        const name = `${base}${ids}${inplace}`;
        const refused = {
          ...functional,
          ...base === "applyRope" ? { lowFreqFactor: [1] } : llama31,
          ...ids === ""
            ? { ...placement, positions: [[0, 1, 2, 3, 4, 5]] }
            : { offset: [0], indptr: [[0, 6]], positions: [[0, 1, 2, 3, 4, 5]] },
          ...plain,
        };
        const call = (q: unknown, k: unknown, options?: unknown): unknown =>
          ids === "" ? loose[name]?.(q, k, options) : loose[name]?.(q, k, [0, 1, 2, 3, 4, 5], options);
        all.push({ name, inplace: inplace !== "", refused, call });
      }
    }
  }
  const table = Tensor.zeros([6, 64], { device });
  for (const name of ["applyRopeWithCosSinCache", "applyRopeWithCosSinCacheInplace"]) {
    const { ropeScale: _scale, ropeTheta: _theta, angles: _angles, ...shape } = functional;
    all.push({
      name,
      inplace: name.endsWith("Inplace"),
      refused: { ...shape, ...plain, ropeTheta: [1e4], ropeScale: [1], angles: ["exact"], offset: [0], positions: [[0, 1, 2, 3, 4, 5]] },
      call: (q, k, options) => loose[name]?.(q, k, null, table, options),
    });
  }
  const methods = embedding as unknown as Record<string, (...args: unknown[]) => unknown>;
  for (const method of ["forward", "forwardInplace"]) {
    all.push({
      name: `RotaryEmbedding.${method}`,
      inplace: method === "forwardInplace",
      refused: { ...embedded, ...unknown, rotaryDim: [64], pairing: ["half"] },
      call: (q, k, options) => methods[method]?.(q, k, options),
    });
  }
  all.push({
    name: "RotaryEmbedding.rotate",
    inplace: false,
    refused: { ...embedded, ...unknown },
    call: (q, _k, options) => methods["rotate"]?.(q, options),
  });
  const dispose = (): void => [embedding, table].forEach((one) => one.dispose());
  return { all, dispose };
}

/** The call must throw a RopeError of this kind; its message says what to do and holds no address. */
function refuse(
  call: () => unknown,
  kind: typeof RopeArgumentError | typeof RopeDisposedError,
  operation: string,
  argument?: string | RegExp,
): void {
  const error = errorOf(call) as RopeError;
  if (!(error instanceof kind)) throw new Error(`${operation}, ${argument}: got ${error}`);
  expect(error.operation).toBe(operation);
  if (argument instanceof RegExp) expect(error.argument).toMatch(argument);
  else if (argument !== undefined) expect(error.argument).toBe(argument);
  expect(error.message.startsWith(`${operation}: `)).toBe(true);
  expect(error.message).not.toMatch(/0x[0-9a-f]{4}|undefined must|[0-9]{13}/);
}

describe.each(devices)("errors on %s", (name) => {
  const device = open(name);
  const { all } = callables(device);

  test.each(all.map((it) => [it.name, it] as const))("%s: every option coerced the wrong way", (operation, it) => {
    using q = randomTensor([6, 2, 64], "float32", device, 1);
    using k = randomTensor([6, 1, 64], "float32", device, 2);
    const [qBytes, kBytes] = [bytesOf(q).slice(), bytesOf(k).slice()];
    using out = new Fenced([6, 2, 64], "float32", device);
    using kOut = new Fenced([6, 1, 64], "float32", device);
    const before = device.memory();
    for (const [option, values] of Object.entries(it.refused)) {
      for (const value of values) {
        const into = it.inplace ? {} : { out: operation === "RotaryEmbedding.rotate" ? out.tensor : [out.tensor, kOut.tensor] };
        const error = errorOf(() => it.call(q, k, { ...into, [option]: value })) as RopeError;
        if (!(error instanceof RopeArgumentError)) throw new Error(`${option}: ${String(value)}: got ${error}`);
        // Good new results are given back as well.
        expect(errorOf(() => it.call(q, k, { [option]: value }))).toBeInstanceOf(RopeArgumentError);
        expect(error.operation).toBe(operation);
        expect(error.message).not.toMatch(/0x[0-9a-f]{4}/);
      }
    }
    for (const value of [null, 0, 1, "", "offset", true, [], [3], new Int32Array(2), q, () => 0]) {
      if (typeof value === "function") continue; // callables are objects of a kind; unknown keys are what matters
      refuse(() => it.call(q, k, value), RopeArgumentError, operation, "options");
    }
    const after = device.memory();
    expect(after.liveTensors).toBeLessThanOrEqual(before.liveTensors);
    expect(after.bytesInUse).toBeLessThanOrEqual(before.bytesInUse);
    expect(out.untouched && kOut.untouched).toBe(true);
    expect(firstDifference(bytesOf(q), qBytes)).toBe(-1);
    expect(firstDifference(bytesOf(k), kBytes)).toBe(-1);
    it.call(q, k, { inverse: undefined, headDim: undefined }); // undefined is not given
  });

  test.each(all.map((it) => [it.name, it] as const))("%s: tensors that are none, or were", (operation, it) => {
    using q = randomTensor([6, 2, 64], "float32", device, 1);
    using k = randomTensor([6, 1, 64], "float32", device, 2);
    const gone = randomTensor([6, 2, 64], "float32", device, 3);
    gone.dispose();
    const first = operation === "RotaryEmbedding.rotate" ? "x" : "q";
    for (const value of [null, ...notTensors]) refuse(() => it.call(value, k), RopeArgumentError, operation, first);
    refuse(() => it.call(gone, k), RopeDisposedError, operation, first);
    if (first === "x") return;
    for (const value of notTensors) refuse(() => it.call(q, value), RopeArgumentError, operation, "k");
    refuse(() => it.call(q, gone), RopeDisposedError, operation, "k");
  });

  test.each(all.map((it) => [it.name, it] as const))("%s: shapes, strides and dtypes that do not fit", (operation, it) => {
    const one = operation === "RotaryEmbedding.rotate";
    const first = one ? /^(x|q)$/ : "q";
    using stack = new DisposableStack();
    const make = (shape: number[], dtype: "float32" | "int32" | "uint8" | "float8_e4m3fn" = "float32"): Tensor =>
      stack.use(Tensor.zeros(shape, { dtype, device }));
    const q = make([6, 2, 64]);
    refuse(() => it.call(make([6, 2, 64], "int32"), one ? null : make([6, 1, 64], "int32")), RopeArgumentError, operation, first);
    refuse(() => it.call(make([6, 2, 64], "uint8"), null), RopeArgumentError, operation, first);
    refuse(() => it.call(make([6, 2, 64], "float8_e4m3fn"), null), RopeArgumentError, operation, first);
    const swapped = stack.use(make([6, 64, 2]).transpose(1, 2));
    refuse(() => it.call(swapped, null), RopeArgumentError, operation, first);
    for (const shape of [[], [64], [1, 1, 6, 2, 64], [1, 1, 1, 6, 2, 64]]) {
      refuse(() => it.call(make(shape), null), RopeArgumentError, operation);
    }
    if (one) return;
    refuse(() => it.call(q, make([6, 1, 32])), RopeArgumentError, operation, "k");
    refuse(() => it.call(q, make([5, 1, 64])), RopeArgumentError, operation, "k");
    refuse(() => it.call(q, make([1, 6, 1, 64])), RopeArgumentError, operation, "k");
    refuse(() => it.call(q, stack.use(Tensor.zeros([6, 1, 64], { dtype: "float16", device }))), RopeArgumentError, operation, "k");
    if (it.inplace) refuse(() => it.call(q, q), RopeArgumentError, operation, /^(k|out\[[01]\])$/);
  });

  test.each(all.filter((it) => !it.inplace).map((it) => [it.name, it] as const))("%s: out that cannot be", (operation, it) => {
    const one = operation === "RotaryEmbedding.rotate";
    using stack = new DisposableStack();
    const zeros = (shape: number[], dtype: "float32" | "float16" = "float32"): Tensor => stack.use(Tensor.zeros(shape, { dtype, device }));
    const base = zeros([13, 2, 64]);
    const q = stack.use(base.slice(0, 0, 6));
    const k = zeros([6, 1, 64]);
    const shifted = stack.use(base.slice(0, 1, 7)); // shares rows with q
    const gone = zeros([6, 2, 64]);
    gone.dispose();
    const broadcast = zeros([6, 2, 64]);
    const bad: unknown[] = [zeros([6, 1, 64]), zeros([5, 2, 64]), zeros([6, 2, 64], "float16"), shifted, zeros([1, 6, 2, 64])];
    for (const out of bad) {
      refuse(() => it.call(q, k, { out: one ? out : [out, zeros([6, 1, 64])] }), RopeArgumentError, operation, /^out(\[0\])?$/);
    }
    refuse(() => it.call(q, k, { out: one ? gone : [gone, zeros([6, 1, 64])] }), RopeDisposedError, operation, /^out(\[0\])?$/);
    for (
      const out of one
        ? [null, 0, {}, [], [q], "out"]
        : [null, 0, {}, [], "out", q, [null, null], [broadcast], [broadcast, null], [broadcast, k, k], [k]]
    ) {
      refuse(() => it.call(q, k, { out }), RopeArgumentError, operation, /^out/);
    }
    if (one) return;
    refuse(() => it.call(q, null, { out: [zeros([6, 2, 64]), zeros([6, 1, 64])] }), RopeArgumentError, operation, "out[1]");
    const both = zeros([6, 3, 64]);
    const qOut = stack.use(both.slice(1, 0, 2)), kOut = stack.use(both.slice(1, 1, 2));
    refuse(() => it.call(q, k, { out: [qOut, kOut] }), RopeArgumentError, operation, /^out/); // they share a head
    refuse(() => it.call(q, k, { out: [zeros([6, 2, 64]), stack.use(q.slice(1, 0, 1))] }), RopeArgumentError, operation, /^out/); // k into q
  });

  test("an Inplace twin has no out", () => {
    using q = randomTensor([6, 2, 64], "float32", device);
    for (const it of all.filter((one) => one.inplace)) {
      for (const out of [[q, null], q, null, 3]) refuse(() => it.call(q, null, { out }), RopeArgumentError, it.name, "out");
      expect((errorOf(() => it.call(q, null, { out: q })) as Error).message).toBe(
        `${it.name}: out must be absent, for an in-place call overwrites q and k, got a Tensor.`,
      );
      it.call(q, null, { out: undefined });
    }
  });

  test.each(
    ["applyRopePosIds", "applyRopePosIdsInplace", "applyLlama31RopePosIds", "applyLlama31RopePosIdsInplace"].map((one) => [one] as const),
  )(
    "%s: positions that cannot be",
    (operation) => {
      using q = randomTensor([6, 2, 64], "float32", device);
      const call = (rope as unknown as Record<string, (...args: unknown[]) => unknown>)[operation] ?? ((): void => {});
      for (const value of [undefined, ...positions]) refuse(() => call(q, null, value), RopeArgumentError, operation, /^positions/);
      wrongPositions(operation, (value) => call(q, null, value), device);
    },
  );

  test("RotaryEmbedding.rotate: position tensors that cannot be", () => {
    using embedding = new RotaryEmbedding({ dim: 64, device });
    using x = randomTensor([6, 2, 64], "float32", device);
    wrongPositions("RotaryEmbedding.rotate", (value) => embedding.rotate(x, { positions: value }), device);
    using x4 = randomTensor([2, 3, 2, 64], "float32", device);
    using swapped = Tensor.zeros([3, 2], { dtype: "int32", device });
    refuse(() => embedding.rotate(x4, { positions: swapped }), RopeArgumentError, "RotaryEmbedding.rotate", "positions");
    refuse(() => embedding.rotate(x4, { positions: [0, 1] }), RopeArgumentError, "RotaryEmbedding.rotate", "positions");
    refuse(() => embedding.rotate(x4, { indptr: [0, 3] }), RopeArgumentError, "RotaryEmbedding.rotate", "indptr");
    refuse(() => embedding.rotate(x4, { offsets: [1, 2, 3] }), RopeArgumentError, "RotaryEmbedding.rotate", "offsets");
    using starts = Tensor.zeros([2], { dtype: "float32", device });
    refuse(() => embedding.rotate(x4, { offsets: starts }), RopeArgumentError, "RotaryEmbedding.rotate", "offsets");
  });

  test("only one way to say where tokens stand", () => {
    using embedding = new RotaryEmbedding({ dim: 64, device });
    using x = randomTensor([6, 2, 64], "float32", device);
    const ways = { positions: [0, 1, 2, 3, 4, 5], offset: 0, indptr: [0, 6], offsets: [0] };
    for (const a of ["positions", "offset", "indptr", "offsets"] as const) {
      for (const b of ["positions", "offset", "indptr", "offsets"] as const) {
        if (a >= b || (a === "indptr" && b === "offsets")) continue;
        const error = errorOf(() => embedding.rotate(x, { [a]: ways[a], [b]: ways[b] })) as RopeError;
        expect(error).toBeInstanceOf(RopeArgumentError);
        expect(error.message).toContain(a);
        expect(error.message).toContain(b);
      }
    }
    embedding.rotate(x, { positions: undefined, offset: 3, indptr: undefined }).dispose();
  });

  test("several axes need positions", () => {
    using embedding = new RotaryEmbedding({ dim: 8, axes: 2, axisOfPair: [0, 1, 0, 1], device });
    using x = randomTensor([6, 2, 8], "float32", device);
    for (const options of [undefined, {}, { offset: undefined }]) {
      refuse(() => embedding.rotate(x, options), RopeArgumentError, "RotaryEmbedding.rotate", "positions");
    }
    for (const options of [{ offset: 3 }, { indptr: [0, 6] }, { offsets: [3] }]) {
      const [name = ""] = Object.keys(options);
      refuse(() => embedding.rotate(x, options), RopeArgumentError, "RotaryEmbedding.rotate", name);
      expect((errorOf(() => embedding.rotate(x, options)) as Error).message).toContain(
        "must be absent, for the embedding has 2 axes, got",
      );
    }
    using flat = Tensor.zeros([6], { dtype: "int32", device });
    refuse(() => embedding.rotate(x, { positions: flat }), RopeArgumentError, "RotaryEmbedding.rotate", "positions");
    refuse(() => embedding.rotate(x, { positions: [0, 1, 2, 3, 4, 5] }), RopeArgumentError, "RotaryEmbedding.rotate", "positions");
    refuse(() => embedding.cosSin([1, 2, 3]), RopeArgumentError, "RotaryEmbedding.cosSin", "positions");
  });

  test("an embedding that was disposed of", () => {
    const embedding = new RotaryEmbedding({ dim: 64, device });
    using x = randomTensor([6, 2, 64], "float32", device);
    embedding.dispose();
    embedding.dispose();
    embedding[Symbol.dispose]();
    const uses: [string, () => unknown][] = [
      ["forward", () => embedding.forward(x, null)],
      ["forwardInplace", () => embedding.forwardInplace(x, null)],
      ["rotate", () => embedding.rotate(x)],
      ["cosSin", () => embedding.cosSin([1])],
      ["frequencies", () => embedding.frequencies],
      ["invFreq", () => embedding.invFreq],
    ];
    for (const [method, use] of uses) refuse(use, RopeDisposedError, `RotaryEmbedding.${method}`);
    expect(embedding.dim).toBe(64);
  });

  test("a stream that was disposed of", () => {
    using q = randomTensor([6, 2, 64], "float32", device);
    const stream = device.createStream();
    rope.applyRopeInplace(q, null, { stream });
    stream.dispose();
    refuse(() => rope.applyRopeInplace(q, null, { stream }), RopeDisposedError, "applyRopeInplace", "stream");
  });

  test("heads that the frequencies do not have", () => {
    using embedding = new RotaryEmbedding({ dim: 4, frequencies: new Float64Array(6), device });
    using q = randomTensor([2, 3, 4], "float32", device);
    using k = randomTensor([2, 1, 4], "float32", device);
    refuse(() => embedding.forward(k, null), RopeArgumentError, "RotaryEmbedding.forward", "q");
    refuse(() => embedding.forward(q, k), RopeArgumentError, "RotaryEmbedding.forward", "k");
  });

  test("a head dimension that is not the embedding's", () => {
    using embedding = new RotaryEmbedding({ dim: 64, device });
    using x = randomTensor([2, 3, 32], "float32", device);
    refuse(() => embedding.forward(x, null), RopeArgumentError, "RotaryEmbedding.forward", "q");
    using flat = randomTensor([2, 96], "float32", device);
    refuse(() => embedding.forward(flat, null), RopeArgumentError, "RotaryEmbedding.forward", "q");
  });

  test("shapes that no head dimension can be read from: q and its shape are named", () => {
    const calls = {
      applyRope: (q: Tensor) => rope.applyRope(q, null, { rotaryDim: 4 }),
      applyLlama31RopeInplace: (q: Tensor) => rope.applyLlama31RopeInplace(q, null),
      applyRopePosIds: (q: Tensor) => rope.applyRopePosIds(q, null, [0], { headDim: 4 }),
    };
    for (const [operation, call] of Object.entries(calls)) {
      for (const shape of [[], [8], [1, 1, 1, 2, 4], [2, 3, 0], [1, 2, 3, 0], [2, 3, 1]]) {
        using q = Tensor.zeros(shape, { device });
        refuse(() => call(q), RopeArgumentError, operation, "q");
        expect((errorOf(() => call(q)) as Error).message).toContain(`the shape [${shape.join(", ")}]`);
      }
    }
  });

  test("frequencies that are too high, under the name of what makes them", () => {
    using q = randomTensor([6, 2, 64], "float32", device);
    const bad: [string, string, () => unknown][] = [
      ["applyRope", "ropeTheta", () => rope.applyRope(q, null, { ropeTheta: 1e-300 })],
      ["applyRope", "ropeScale", () => rope.applyRope(q, null, { ropeScale: 1e-300 })],
      ["applyLlama31Rope", "ropeScale", () => rope.applyLlama31Rope(q, null, { ropeScale: 1e-300 })],
      ["RotaryEmbedding", "base", () => new RotaryEmbedding({ dim: 64, base: 1e-300 })],
      ["RotaryEmbedding", "scaling.ropeTheta", () => new RotaryEmbedding({ dim: 64, scaling: { ropeType: "default", ropeTheta: 1e-300 } })],
      ["RotaryEmbedding", "scaling.factor", () => new RotaryEmbedding({ dim: 64, scaling: { ropeType: "linear", factor: 1e-300 } })],
      ["RotaryEmbedding", "frequencies", () => new RotaryEmbedding({ dim: 4, frequencies: [1, -(2 ** 32) - 1] })],
      ["RotaryEmbedding.fromConfig", "config.rope_theta", () => RotaryEmbedding.fromConfig({ head_dim: 64, rope_theta: 1e-300 })],
    ];
    for (const [operation, argument, call] of bad) {
      refuse(call, RopeArgumentError, operation, argument);
      expect((errorOf(call) as Error).message).toContain(`${operation}: ${argument} must be such that no frequency is beyond 2^32`);
    }
    new RotaryEmbedding({ dim: 4, frequencies: [1, -(2 ** 32)] }).dispose();
  });

  test("the sentences help", () => {
    using q = randomTensor([6, 2, 64], "float32", device);
    using flat = randomTensor([6, 128], "float32", device);
    const says = (call: () => unknown): string => (errorOf(call) as Error).message;
    expect(says(() => rope.applyRope(q, null, { rotaryDim: 7 }))).toBe(
      "applyRope: rotaryDim must be even and at least 2, got 7. Channels rotate in pairs.",
    );
    expect(says(() => rope.applyRope(flat, null))).toBe(
      "applyRope: headDim must be given for a q of rank 2, got undefined. It is the D of a q of shape [nnz, H * D].",
    );
    expect(says(() => rope.applyRope(q, undefined as unknown as null))).toBe(
      "applyRope: k must be a Tensor, got undefined. Give null to rotate q alone.",
    );
    expect(says(() => rope.applyRope(q, null, { pairing: "neox" as "half" }))).toBe(
      'applyRope: pairing must be one of "half", "interleaved", "interleaved_to_half", got "neox".',
    );
    expect(says(() => rope.applyRopePosIds(q, null, [1, 2]))).toBe(
      "applyRopePosIds: positions must be 6 numbers, one for each token, got 2.",
    );
    expect(says(() => rope.applyRope(q, null, { indptr: [0, 4, 3] }))).toBe(
      "applyRope: indptr[2] must be at least the entry before it, 4, got 3.",
    );
  });
});

describe("the constructor", () => {
  const operation = "RotaryEmbedding";
  const refused: Refused = {
    dim: [undefined, ...notIntegers, 0, -1, 1, 7],
    maxSeqLen: [...notIntegers, 0, -1],
    base: notPositive,
    rotaryDim: [...notIntegers, 0, -2, 7, 66],
    rotaryOffset: [...notIntegers, -1, 1, 63, 64, 65],
    pairing: notWords,
    angles: notWords,
    axes: [...notIntegers, 0, -1, 17, 2],
    axisOfPair: [
      null,
      0,
      "0",
      {},
      [],
      [0],
      new Array(32),
      new Array(32).fill("0"),
      new Array(32).fill(-1),
      new Array(32).fill(16),
      new Array(32).fill(0.5),
    ],
    attentionFactor: notPositive,
    conjugate: notBooleans,
    frequencies: [
      null,
      0,
      "0",
      {},
      [],
      [1],
      new Array(32),
      new Array(32).fill("1"),
      new Array(32).fill(NaN),
      new Array(32).fill(Infinity),
      new Array(33).fill(1),
    ],
    device: [null, 0, "gpu", "cuda", "cpu:0", {}, []],
    scaling: [null, 0, "linear", [], {}, { ropeType: "LINEAR", factor: 2 }, { ropeType: 3 }, { rope_type: "linear", factor: 2 }, {
      type: "linear",
      factor: 2,
    }],
    qNorm: [{}],
    max_seq_len: [3],
  };

  test.each(Object.entries(refused).map(([option, values]) => [option, values] as const))("%s coerced the wrong way", (option, values) => {
    for (const value of values) {
      const error = errorOf(() => new RotaryEmbedding({ dim: 64, [option]: value })) as RopeError;
      if (!(error instanceof RopeArgumentError)) throw new Error(`${option}: ${String(value)}: got ${error}`);
      expect(error.operation).toBe(operation);
    }
    new RotaryEmbedding({ dim: 64, ...option === "dim" ? {} : { [option]: undefined } }).dispose();
  });

  test("its one argument", () => {
    for (const value of [undefined, null, 64, "64", [], [64]]) {
      expect(errorOf(() => new RotaryEmbedding(value as unknown as { dim: number }))).toBeInstanceOf(RopeArgumentError);
    }
  });

  test.each(["su", "mrope", "deepseek_yarn", "axial", "Yarn", ""].map((rule) => [rule] as const))(
    "the rule %s is not known: the error names those that are",
    (ropeType) => {
      const error = errorOf(() =>
        new RotaryEmbedding({ dim: 64, scaling: { ropeType, factor: 2 } as unknown as { ropeType: "default" } })
      ) as RopeError;
      expect(error).toBeInstanceOf(RopeArgumentError);
      expect(error.message).toBe(
        'RotaryEmbedding: scaling.ropeType must be one of "default", "linear", "dynamic", "ntk", "yarn", "longrope", "llama3", "proportional", ' +
          `got "${ropeType}".`,
      );
    },
  );

  test("keys of scaling", () => {
    const llama3 = { ropeType: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositionEmbeddings: 8192 };
    const bad: [string, object][] = [
      ["scaling.factor", { ropeType: "linear" }],
      ["scaling.lowFreqFactor", { ropeType: "linear", factor: 2, lowFreqFactor: 1 }],
      ["scaling.factor", { ropeType: "default", factor: 2 }],
      ["scaling.foo", { ...llama3, foo: 1 }],
      ["scaling.lowFreqFactor", { ...llama3, lowFreqFactor: 5 }],
      ...notPositive.flatMap((value): [string, object][] => [
        ["scaling.factor", { ropeType: "linear", factor: value }],
        ["scaling.factor", { ...llama3, factor: value }],
        ["scaling.lowFreqFactor", { ...llama3, lowFreqFactor: value }],
        ["scaling.highFreqFactor", { ...llama3, highFreqFactor: value }],
        ["scaling.originalMaxPositionEmbeddings", { ...llama3, originalMaxPositionEmbeddings: value }],
        ["scaling.ropeTheta", { ropeType: "default", ropeTheta: value }],
        ["scaling.partialRotaryFactor", { ropeType: "default", partialRotaryFactor: value }],
      ]),
      ["scaling.partialRotaryFactor", { ropeType: "default", partialRotaryFactor: 1.01 }],
      ["scaling.partialRotaryFactor", { ropeType: "default", partialRotaryFactor: 0.27 }], // 17 channels
    ];
    for (const [argument, scaling] of bad) {
      refuse(() => new RotaryEmbedding({ dim: 64, scaling: scaling as { ropeType: "default" } }), RopeArgumentError, operation, argument);
    }
    const { message } = errorOf(() => {
      const extra: object = { ropeType: "linear", factor: 2, foo: 1 };
      new RotaryEmbedding({ dim: 64, scaling: extra as RopeScaling });
    }) as Error;
    expect(message).toBe(
      'RotaryEmbedding: scaling.foo must be absent, for the keys of "linear" are ropeType, ropeTheta, partialRotaryFactor, factor, got 1.',
    );
  });

  test("options that exclude each other", () => {
    const frequencies = new Array<number>(32).fill(1);
    const bad: [string, object][] = [
      ["base", { frequencies, base: 1e4 }],
      ["scaling", { frequencies, scaling: { ropeType: "linear", factor: 2 } }],
      ["scaling.ropeTheta", { base: 1e4, scaling: { ropeType: "default", ropeTheta: 5e5 } }],
      ["frequencies", { frequencies, axes: 2 }],
      ["axisOfPair", { axes: 2 }],
      ["axisOfPair[1]", { axes: 2, axisOfPair: [0, 2, ...new Array<number>(30).fill(0)] }],
      ["rotaryDim", { rotaryOffset: 32, rotaryDim: 34 }],
    ];
    for (const [argument, options] of bad) {
      refuse(() => new RotaryEmbedding({ dim: 64, ...options }), RopeArgumentError, operation, argument);
    }
  });
});

function wrongPositions(operation: string, call: (positions: Tensor) => unknown, device: Device): void {
  using stack = new DisposableStack();
  const zeros = (shape: number[], dtype: "int32" | "uint8" | "float64" | "float16" = "int32"): Tensor =>
    stack.use(Tensor.zeros(shape, { dtype, device }));
  for (
    const tensor of [
      zeros([5]),
      zeros([7]),
      zeros([6, 1]),
      zeros([2, 6]),
      zeros([]),
      zeros([6], "uint8"),
      zeros([6], "float64"),
      zeros([6], "float16"),
    ]
  ) {
    refuse(() => call(tensor), RopeArgumentError, operation, "positions");
  }
  const gone = zeros([6]);
  gone.dispose();
  refuse(() => call(gone), RopeDisposedError, operation, "positions");
  if (device.kind !== "cpu") return;
  const array = new Int32Array(new ArrayBuffer(24));
  const borrowed = stack.use(Tensor.from(array, [6], { device }));
  array.buffer.transfer();
  refuse(() => call(borrowed), RopeDisposedError, operation);
}
