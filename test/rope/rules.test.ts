// The frequency rules against plain formulas: in float64, and bit for bit in Hugging Face's float32 steps; attention factors; and which length a call
// has, for the rules that depend on it.
import { describe, expect, test } from "bun:test";
import { applyRope, RopeArgumentError, RopeDisposedError, type RopeError, type RopeScaling, RotaryEmbedding, Tensor } from "../../mod.ts";
import { attentionFactorOf, exactFrequencies, hfInvFreq, type Lengths, type RopeParameters } from "../support/formulas.ts";
import { usage } from "../support/usage.ts";
import { devices, errorOf, open, randomTensor, same, uniform } from "./support.ts";

const camel = (key: string): string => key.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());

/** The scaling of the class that the parameters of a config mean. */
function scalingOf({ rope_theta: _, ...parameters }: RopeParameters): RopeScaling {
  return Object.fromEntries(Object.entries(parameters).map(([key, value]) => [camel(key), value])) as unknown as RopeScaling;
}

interface Case extends Lengths {
  readonly dim: number;
  readonly parameters: RopeParameters;
}

const rising = (count: number, from: number, step: number): number[] => Array.from({ length: count }, (_, i) => from + step * i);

const cases: [string, Case][] = [
  ["default", { dim: 128, parameters: { rope_type: "default", rope_theta: 1e4 } }],
  ["linear", { dim: 128, parameters: { rope_type: "linear", rope_theta: 1e4, factor: 3 } }],
  ["llama3", {
    dim: 128,
    parameters: {
      rope_type: "llama3",
      rope_theta: 5e5,
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    },
  }],
  ["dynamic, short", { dim: 128, maxPosition: 2048, seqLen: 100, parameters: { rope_type: "dynamic", rope_theta: 1e4, factor: 2 } }],
  ["dynamic, at the length", {
    dim: 128,
    maxPosition: 2048,
    seqLen: 2048,
    parameters: { rope_type: "dynamic", rope_theta: 1e4, factor: 2 },
  }],
  ["dynamic, one beyond", { dim: 128, maxPosition: 2048, seqLen: 2049, parameters: { rope_type: "dynamic", rope_theta: 1e4, factor: 2 } }],
  ["dynamic, long", { dim: 128, maxPosition: 2048, seqLen: 16384, parameters: { rope_type: "dynamic", rope_theta: 1e4, factor: 2.5 } }],
  ["dynamic, partial", {
    dim: 80,
    maxPosition: 4096,
    seqLen: 9999,
    parameters: { rope_type: "dynamic", rope_theta: 1e4, factor: 4, partial_rotary_factor: 0.25 },
  }],
  ["dynamic with alpha", { dim: 128, seqLen: 1e6, maxPosition: 1, parameters: { rope_type: "dynamic", rope_theta: 1e4, alpha: 1000 } }],
  ["ntk", { dim: 128, parameters: { rope_type: "ntk", rope_theta: 1e4, factor: 8 } }],
  ["ntk, mixed", { dim: 128, parameters: { rope_type: "ntk", rope_theta: 1e4, factor: 8, mixed_b: 0.625 } }],
  ["yarn", { dim: 128, parameters: { rope_type: "yarn", rope_theta: 1e6, factor: 4, original_max_position_embeddings: 32768 } }],
  ["yarn, truncate false", {
    dim: 64,
    parameters: {
      rope_type: "yarn",
      rope_theta: 150000,
      factor: 32,
      beta_fast: 32,
      beta_slow: 1,
      truncate: false,
      original_max_position_embeddings: 4096,
    },
  }],
  ["yarn, null factor", {
    dim: 128,
    maxPosition: 131072,
    parameters: { rope_type: "yarn", rope_theta: 1e6, factor: null, original_max_position_embeddings: 32768 },
  }],
  ["yarn, attention_factor", {
    dim: 128,
    parameters: { rope_type: "yarn", rope_theta: 5e5, factor: 8, attention_factor: 1.25, original_max_position_embeddings: 8192 },
  }],
  ["yarn, equal mscales", {
    dim: 64,
    parameters: { rope_type: "yarn", rope_theta: 1e4, factor: 40, mscale: 1, mscale_all_dim: 1, original_max_position_embeddings: 4096 },
  }],
  ["yarn, different mscales", {
    dim: 64,
    parameters: { rope_type: "yarn", rope_theta: 1e4, factor: 40, mscale: 1, mscale_all_dim: 0.5, original_max_position_embeddings: 4096 },
  }],
  ["yarn, one mscale", {
    dim: 64,
    parameters: { rope_type: "yarn", rope_theta: 1e4, factor: 40, mscale: 0.707, original_max_position_embeddings: 4096 },
  }],
  ["yarn, one mscale 0", {
    dim: 64,
    parameters: { rope_type: "yarn", rope_theta: 1e4, factor: 40, mscale: 0.7, mscale_all_dim: 0, original_max_position_embeddings: 4096 },
  }],
  ["yarn, equal betas (Kimi K2)", {
    dim: 64,
    parameters: { rope_type: "yarn", rope_theta: 5e4, factor: 32, beta_fast: 1, beta_slow: 1, original_max_position_embeddings: 4096 },
  }],
  ["yarn, everything stretched", {
    dim: 64,
    parameters: { rope_type: "yarn", rope_theta: 1e4, factor: 4, beta_fast: 1e9, beta_slow: 1e8, original_max_position_embeddings: 100 },
  }],
  ["yarn, a factor below 1", {
    dim: 64,
    parameters: { rope_type: "yarn", rope_theta: 1e4, factor: 0.5, original_max_position_embeddings: 100 },
  }],
  ...(["short", "at the length", "one beyond", "long"] as const).map((name, i): [string, Case] => [`longrope, ${name}`, {
    dim: 96,
    maxPosition: 131072,
    seqLen: [10, 4096, 4097, 131072][i] ?? 0,
    parameters: {
      rope_type: "longrope",
      rope_theta: 1e4,
      short_factor: rising(48, 1.05, 0.02),
      long_factor: rising(48, 1.3, 1.1),
      original_max_position_embeddings: 4096,
    },
  }]),
  ["longrope, the factor before the lengths", {
    dim: 8,
    maxPosition: 131072,
    parameters: {
      rope_type: "longrope",
      rope_theta: 1e4,
      factor: 2,
      short_factor: rising(4, 1, 1),
      long_factor: rising(4, 9, 1),
      original_max_position_embeddings: 4096,
    },
  }],
  ["longrope, attention_factor", {
    dim: 8,
    maxPosition: 131072,
    parameters: {
      rope_type: "longrope",
      rope_theta: 1e4,
      attention_factor: 1.5,
      short_factor: rising(4, 1, 1),
      long_factor: rising(4, 9, 1),
      original_max_position_embeddings: 4096,
    },
  }],
  ["longrope, shorter than it was", {
    dim: 8,
    maxPosition: 2048,
    parameters: {
      rope_type: "longrope",
      rope_theta: 1e4,
      short_factor: rising(4, 1, 1),
      long_factor: rising(4, 9, 1),
      original_max_position_embeddings: 4096,
    },
  }],
  ["proportional", { dim: 512, parameters: { rope_type: "proportional", rope_theta: 1e6, partial_rotary_factor: 0.25 } }],
  ["proportional, all of it", { dim: 64, parameters: { rope_type: "proportional", rope_theta: 1e4, factor: 8 } }],
];

function expectFrequencies(got: Float64Array, want: Float64Array, tolerance: number): void {
  expect(got.length).toBe(want.length);
  got.forEach((value, pair) => {
    const wanted = want[pair] ?? NaN;
    if (!(Math.abs(value - wanted) <= tolerance * wanted)) throw new Error(`pair ${pair} turns by ${value}, not ${wanted}`);
  });
}

/** An embedding of a rule, and its frequencies at the length of the case: those of the getters, or of a cosSin at position 1. */
function check({ dim, parameters, maxPosition, seqLen }: Case): void {
  const lengths = { maxPosition, seqLen };
  const scaling = scalingOf(parameters);
  using rope = new RotaryEmbedding({ dim, base: parameters.rope_theta, maxSeqLen: maxPosition, scaling, device: "cpu" });
  const original = { maxPosition };
  expectFrequencies(rope.frequencies, exactFrequencies(parameters, dim, original), 1e-14);
  expect([...rope.invFreq]).toEqual([...hfInvFreq(parameters, dim, original)]);
  expect(Math.abs(rope.attentionFactor - attentionFactorOf(parameters, lengths))).toBeLessThanOrEqual(2e-16);

  // What a call of that length turns by: at position 1 cos and sin tell the angle, in float32.
  const want = exactFrequencies(parameters, dim, lengths);
  const { cos, sin } = rope.cosSin([1], { contextLength: seqLen });
  const c = cos.readBlocking(), s = sin.readBlocking();
  want.forEach((frequency, pair) => {
    expect(Math.abs(Number(c[pair]) - rope.attentionFactor * Math.cos(frequency))).toBeLessThan(4e-7);
    expect(Math.abs(Number(s[pair]) - rope.attentionFactor * Math.sin(frequency))).toBeLessThan(4e-7);
  });
  cos.dispose();
  sin.dispose();

  // Frequencies of the caller are radians per position: with hf angles both are the float32 product.
  using hf = new RotaryEmbedding({ dim, base: parameters.rope_theta, maxSeqLen: maxPosition, scaling, angles: "hf", device: "cpu" });
  using own = new RotaryEmbedding({
    dim,
    rotaryDim: rope.rotaryDim,
    frequencies: hfInvFreq(parameters, dim, lengths),
    attentionFactor: rope.attentionFactor,
    angles: "hf",
    device: "cpu",
  });
  using x = randomTensor([3, 2, dim], "float32", open("cpu"));
  using a = hf.rotate(x, { positions: [1, 77, 4000], contextLength: seqLen ?? 1 });
  using b = own.rotate(x, { positions: [1, 77, 4000] });
  expect(same(a, b)).toBe(true);
}

describe("rules", () => {
  test.each(cases)("%s", (_, given) => check(given));

  test("random parameters", () => {
    const next = uniform(20);
    const pick = <T>(values: readonly T[]): T => values[Math.floor(next() * values.length)] as T;
    for (let i = 0; i < 400; ++i) {
      const dim = 4 * (1 + Math.floor(next() * 40));
      const base = { rope_theta: pick([100, 1e4, 12345.5, 5e5, 1e7]), factor: pick([1, 1.5, 2, 8, 40, 0.75]) };
      const original = pick([2, 512, 4096, 8192, 262144]);
      const maxPosition = original * pick([1, 4, 32]);
      const seqLen = pick([1, original, original + 1, 3 * original, 100 * original]);
      const partial = pick([{}, { partial_rotary_factor: 0.5 }]);
      const pairs = rotaryPairs(dim, partial);
      const parameters: RopeParameters = pick([
        { rope_type: "dynamic", ...base, ...partial, original_max_position_embeddings: original },
        { rope_type: "ntk", ...base, ...partial, ...pick([{}, { mixed_b: 0.5 + next() }]) },
        {
          rope_type: "yarn",
          ...base,
          ...partial,
          ...pick([{}, { factor: null }]),
          ...pick([{}, { beta_fast: 32 + 32 * next(), beta_slow: 1 + next() }]),
          ...pick([{}, { mscale: next(), mscale_all_dim: next() }]),
          ...pick([{}, { truncate: false }]),
          ...pick([{}, { attention_factor: 1 + next() }]),
          original_max_position_embeddings: original,
        },
        {
          rope_type: "longrope",
          ...base,
          ...partial,
          ...pick([{}, { factor: null }]),
          short_factor: Array.from({ length: pairs }, () => 1 + next()),
          long_factor: Array.from({ length: pairs }, () => 1 + 60 * next()),
          original_max_position_embeddings: original,
        },
        { rope_type: "proportional", ...base, partial_rotary_factor: 0.01 + 0.99 * next() },
      ]);
      if (parameters.rope_type === "dynamic" && pairs < 2) continue;
      try {
        check({ dim, parameters, maxPosition, seqLen });
      } catch (error) {
        throw new Error(`${JSON.stringify({ dim, parameters, maxPosition, seqLen })}: ${(error as Error).message}`);
      }
    }
  });

  test("attentionFactor replaces the rule's, and that its lengths'", () => {
    const scaling = {
      ropeType: "longrope",
      shortFactor: [1, 1],
      longFactor: [2, 2],
      shortMscale: 1.125,
      longMscale: 1.5,
      originalMaxPositionEmbeddings: 10,
    } as const;
    using rope = new RotaryEmbedding({ dim: 4, scaling, device: "cpu" });
    expect(rope.attentionFactor).toBe(1.125);
    expect(cosOf(rope, 0, undefined)).toBe(1.125);
    expect(cosOf(rope, 0, 10)).toBe(1.125);
    expect(cosOf(rope, 0, 11)).toBe(1.5);
    using forced = new RotaryEmbedding({ dim: 4, scaling, attentionFactor: 3, device: "cpu" });
    expect([forced.attentionFactor, cosOf(forced, 0, 5), cosOf(forced, 0, 11)]).toEqual([3, 3, 3]);
    const yarn = { ropeType: "yarn", factor: 4, attentionFactor: 1.25, originalMaxPositionEmbeddings: 100 } as const;
    using given = new RotaryEmbedding({ dim: 4, scaling: yarn, device: "cpu" });
    expect(given.attentionFactor).toBe(1.25);
    using replaced = new RotaryEmbedding({ dim: 4, scaling: yarn, attentionFactor: 1, device: "cpu" });
    expect(replaced.attentionFactor).toBe(1);
  });

  test("proportional: the pairs above the part pass bit for bit, and R is the head", () => {
    using rope = new RotaryEmbedding({ dim: 16, scaling: { ropeType: "proportional", partialRotaryFactor: 0.25 }, device: "cpu" });
    expect(rope.rotaryDim).toBe(16);
    const input = Float32Array.from({ length: 16 }, (_, i) => i + 1);
    using x = Tensor.from(input, [1, 1, 16], { device: "cpu" });
    using out = rope.rotate(x, { offset: 5 });
    const got = out.readBlocking() as Float32Array;
    const changed = [...got.keys()].filter((channel) => got[channel] !== input[channel]);
    expect(changed).toEqual([0, 1, 8, 9]);
  });

  test("with axisOfPair, and with conjugate and inverse", () => {
    const scaling = { ropeType: "yarn", factor: 4, originalMaxPositionEmbeddings: 128 } as const;
    using plain = new RotaryEmbedding({ dim: 16, scaling, device: "cpu" });
    const axisOfPair = [0, 1, 2, 0, 1, 2, 0, 1];
    using rope = new RotaryEmbedding({ dim: 16, scaling, axisOfPair, device: "cpu" });
    expect([...rope.frequencies]).toEqual([...plain.frequencies]);
    expect([...rope.invFreq]).toEqual([...plain.invFreq]);
    using x = randomTensor([4, 2, 16], "float32", open("cpu"));
    using a = plain.rotate(x, { positions: [3, 9, 27, 81] });
    using b = rope.rotate(x, { positions: [3, 9, 27, 81, 3, 9, 27, 81, 3, 9, 27, 81] });
    expect(same(a, b)).toBe(true);
  });
});

const notPositive: unknown[] = ["8", true, {}, [], 1n, NaN, Infinity, 0, -0, -1];

describe("what a rule refuses, by name", () => {
  const yarn = { ropeType: "yarn", factor: 4, originalMaxPositionEmbeddings: 4096 };
  const ones = new Array<number>(8).fill(1);
  const longrope = { ropeType: "longrope", shortFactor: ones, longFactor: ones, originalMaxPositionEmbeddings: 4096 };
  const refuse = (argument: string, scaling: object, options: object = {}): RopeError => {
    const error = errorOf(() => new RotaryEmbedding({ dim: 16, device: "cpu", ...options, scaling: scaling as RopeScaling })) as RopeError;
    if (!(error instanceof RopeArgumentError)) throw new Error(`${argument}: got ${error}`);
    expect([error.operation, error.argument]).toEqual(["RotaryEmbedding", argument]);
    return error;
  };

  test("numbers that are none", () => {
    const each: [object, string[]][] = [
      [{ ropeType: "dynamic", factor: 2 }, ["factor", "alpha", "originalMaxPositionEmbeddings"]],
      [{ ropeType: "dynamic", alpha: 2 }, ["factor", "alpha", "originalMaxPositionEmbeddings"]],
      [{ ropeType: "ntk", factor: 2 }, ["factor", "mixedB"]],
      [yarn, ["factor", "originalMaxPositionEmbeddings", "attentionFactor", "betaFast", "betaSlow"]],
      [longrope, ["factor", "originalMaxPositionEmbeddings", "attentionFactor", "shortMscale", "longMscale"]],
      [{ ropeType: "proportional" }, ["factor", "partialRotaryFactor"]],
    ];
    for (const [scaling, names] of each) {
      new RotaryEmbedding({ dim: 16, device: "cpu", scaling: scaling as RopeScaling }).dispose();
      for (const name of names) {
        for (const value of notPositive) refuse(`scaling.${name}`, { ...scaling, [name]: value });
      }
      refuse("scaling.twist", { ...scaling, twist: 1 });
    }
    for (const name of ["mscale", "mscaleAllDim"]) { // 0 is none, as in Hugging Face
      for (const value of notPositive.filter((value) => value !== 0)) refuse(`scaling.${name}`, { ...yarn, [name]: value });
    }
    for (const truncate of [0, 1, "true", null, {}]) refuse("scaling.truncate", { ...yarn, truncate });
  });

  test("what is missing, too much, or does not fit", () => {
    refuse("scaling.factor", { ropeType: "dynamic" });
    refuse("scaling.factor", { ropeType: "ntk" });
    for (const factor of [undefined, null]) {
      const error = refuse("scaling.factor", { ...yarn, factor });
      expect(error.message).toBe(
        `RotaryEmbedding: scaling.factor must be a positive number where maxSeqLen is not given, got ${factor}. ` +
          "It defaults to maxSeqLen / scaling.originalMaxPositionEmbeddings.",
      );
    }
    refuse("scaling.partialRotaryFactor", { ropeType: "proportional", partialRotaryFactor: 1.5 });
    refuse("scaling.betaFast", { ...yarn, betaFast: 2, betaSlow: 3 });
    refuse("scaling.betaFast", { ...yarn, betaSlow: 33 });
    refuse("scaling.betaFast", { ...yarn, betaFast: 0.5 });
    refuse("scaling.originalMaxPositionEmbeddings", { ...longrope, originalMaxPositionEmbeddings: 1 });
    refuse("base", yarn, { base: 1 });
    refuse("base", yarn, { base: 0.5 });
    refuse("scaling.ropeTheta", { ...yarn, ropeTheta: 1 });
    refuse("rotaryDim", { ropeType: "dynamic", factor: 2 }, { rotaryDim: 2 });
    refuse("scaling.twist", { ...longrope, twist: 3 });
    refuse("scaling.alpha", { ...yarn, alpha: 3 });
    refuse("scaling", yarn, { frequencies: ones });
  });

  test("divisors", () => {
    for (const name of ["shortFactor", "longFactor"]) {
      for (const value of [undefined, null, 3, "11111111", {}, { length: -1 }, { length: 1.5 }]) {
        refuse(`scaling.${name}`, { ...longrope, [name]: value });
      }
      for (const count of [0, 7, 9, 16]) refuse(`scaling.${name}`, { ...longrope, [name]: new Array<number>(count).fill(1) });
      for (const value of [...notPositive, null, undefined]) {
        refuse(`scaling.${name}[5]`, { ...longrope, [name]: ones.map((one, i) => i === 5 ? value : one) });
      }
      for (const list of [Float32Array.from(ones), Float64Array.from(ones), Object.assign({ length: 8 }, ones)]) {
        new RotaryEmbedding({ dim: 16, device: "cpu", scaling: { ...longrope, [name]: list } as unknown as RopeScaling }).dispose();
      }
    }
    expect(refuse("scaling.shortFactor", { ...longrope, shortFactor: [1] }).message).toBe(
      "RotaryEmbedding: scaling.shortFactor must be 8 numbers, one for each pair that rotates, got 1.",
    );
    const tiny = { ...longrope, shortFactor: new Array<number>(8).fill(1e-30) };
    expect(refuse("scaling.shortFactor", tiny).message).toContain("no frequency is beyond 2^32 radians per position");
  });

  test("frequencies beyond 2^32, of a factor", () => {
    for (const ropeType of ["yarn", "proportional"]) refuse("scaling.factor", { ropeType, factor: 1e-30 });
  });

  test("the list that was given may change afterwards", () => {
    const shortFactor = new Array<number>(8).fill(2);
    const longFactor = new Array<number>(8).fill(4);
    using rope = new RotaryEmbedding({ dim: 16, device: "cpu", scaling: { ...longrope, shortFactor, longFactor } as RopeScaling });
    shortFactor.fill(NaN);
    longFactor.fill(NaN);
    expect(rope.frequencies[0]).toBe(0.5);
    const { cos, sin } = rope.cosSin([1], { contextLength: 4097 });
    expect(Math.abs(Number(sin.readBlocking()[0]) / rope.attentionFactor - Math.sin(0.25))).toBeLessThan(2e-7);
    cos.dispose();
    sin.dispose();
  });
});

function rotaryPairs(dim: number, partial: { partial_rotary_factor?: number }): number {
  return Math.trunc(dim * (partial.partial_rotary_factor ?? 1)) / 2;
}

function cosOf(rope: RotaryEmbedding, position: number, contextLength: number | undefined): number {
  const { cos, sin } = rope.cosSin([position], { contextLength });
  const value = Number(cos.readBlocking()[0]);
  cos.dispose();
  sin.dispose();
  return value;
}

describe.each(devices)("context lengths on %s", (name) => {
  const device = open(name);
  const dim = 16;
  const scaling = { ropeType: "dynamic", factor: 4 } as const;
  const make = (): RotaryEmbedding => new RotaryEmbedding({ dim, maxSeqLen: 100, scaling, device });

  /** x rotated as a context of that length is. */
  function wanted(x: Tensor, positions: readonly number[], length: number): Tensor {
    const frequencies = exactFrequencies({ rope_type: "dynamic", rope_theta: 1e4, factor: 4 }, dim, { maxPosition: 100, seqLen: length });
    using rope = new RotaryEmbedding({ dim, frequencies, device });
    return rope.rotate(x, { positions });
  }

  /** Whether a rotation is that of the length: frequencies of plain doubles are an ulp off those of long double, which shows in a few last bits. */
  function expectLength(rotated: Tensor, x: Tensor, positions: readonly number[], length: number): void {
    using want = wanted(x, positions, length);
    const a = rotated.readBlocking() as Float32Array, b = want.readBlocking() as Float32Array;
    const worst = a.reduce((most, value, i) => Math.max(most, Math.abs(value - (b[i] ?? NaN))), 0);
    if (!(worst <= 1e-6)) throw new Error(`not the rotation of a context of ${length}: off by ${worst}`);
  }

  test("contextLength decides", () => {
    using rope = make();
    using x = randomTensor([3, 2, dim], "float32", device);
    for (const contextLength of [1, 99, 100, 101, 500, 5000]) {
      using got = rope.rotate(x, { positions: [0, 50, 4999], contextLength });
      expectLength(got, x, [0, 50, 4999], contextLength);
    }
  });

  test("else the largest position that the host knows", () => {
    using rope = make();
    using x = randomTensor([3, 2, dim], "float32", device);
    const at = (positions: number[], length: number, options: Parameters<RotaryEmbedding["rotate"]>[1]): void => {
      using got = rope.rotate(x, options);
      expectLength(got, x, positions, length);
    };
    at([0, 1, 2], 3, {});
    at([300, 301, 302], 303, { offset: 300 });
    at([5, 700, 3], 701, { positions: [5, 700, 3] });
    at([5, 700, -1], 701, { positions: Int32Array.of(5, 700, -1) });
    at([5, 700, 3], 701, { positions: BigInt64Array.of(5n, 700n, 3n) });
    at([0.5, 700.5, 3], 701, { positions: [0.5, 700.5, 3] });
    at([400, 401, 0], 402, { indptr: [0, 2, 3], offsets: [400, 0] });
    at([0, 1, 0], 2, { indptr: [0, 2, 3] });
    at([-400, -1000, -7], 1, { positions: [-400, -1000, -7] });
    using rows = x.reshape([3, 1, 2, dim]);
    using got = rope.rotate(rows, { offsets: [900, 0, 4] });
    using flat = got.reshape([3, 2, dim]);
    expectLength(flat, x, [900, 0, 4], 901);
  });

  test("a tensor's positions on the CPU; on another device, or while a graph is recorded, maxSeqLen", () => {
    using rope = new RotaryEmbedding({ dim, maxSeqLen: 250, scaling: { ...scaling, originalMaxPositionEmbeddings: 100 }, device });
    using x = randomTensor([3, 2, dim], "float32", device);
    using positions = Tensor.from([5, 700, 3], [3], { dtype: "int32", device });
    using offsets = Tensor.from([698], [1], { dtype: "int64", device });
    using indptr = Tensor.from([0, 3], [2], { dtype: "int32", device });
    const known = device.kind === "cpu";
    using a = rope.rotate(x, { positions });
    expectLength(a, x, [5, 700, 3], known ? 701 : 250);
    using b = rope.rotate(x, { indptr, offsets });
    expectLength(b, x, [698, 699, 700], known ? 701 : 250);
    let recorded: Tensor | null = null;
    using graph = device.capture(() => {
      recorded = rope.rotate(x, { positions });
    });
    graph.launch();
    if (recorded === null) throw new Error("nothing was recorded");
    expectLength(recorded, x, [5, 700, 3], 250);
    let counted: Tensor | null = null;
    using derived = device.capture(() => {
      counted = rope.rotate(x, { offset: 500 });
    });
    derived.launch();
    if (counted === null) throw new Error("nothing was recorded");
    expectLength(counted, x, [500, 501, 502], 503);
  });

  test("many lengths in turn, none of them mixed up, and nothing left over", () => {
    const before = usage().handles; // it may fall by itself: finalizers of earlier tests
    const rope = make();
    using x = randomTensor([1, 2, dim], "float32", device);
    for (let step = 0; step < 40; ++step) {
      const position = 95 + (step * 7) % 20;
      using got = rope.rotate(x, { offset: position });
      expectLength(got, x, [position], position + 1);
      expect(usage().handles).toBeLessThanOrEqual(before + 6); // the original length and the last few
    }
    rope.dispose();
    expect(usage().handles).toBeLessThanOrEqual(before);
    expect(errorOf(() => rope.rotate(x, { offset: 500 }))).toBeInstanceOf(RopeDisposedError);
  });

  test("a recording keeps the frequencies of its length", () => {
    const rope = make();
    using x = randomTensor([2, 2, dim], "float32", device);
    let recorded: Tensor | null = null;
    using graph = device.capture(() => {
      recorded = rope.rotate(x, { offset: 700 });
    });
    for (let length = 200; length < 220; ++length) rope.rotate(x, { contextLength: length }).dispose();
    rope.dispose();
    graph.launch();
    if (recorded === null) throw new Error("nothing was recorded");
    expectLength(recorded, x, [700, 701], 702);
  });

  test("longrope: the long list beyond the original length, for all positions of the call", () => {
    const longrope = {
      ropeType: "longrope",
      shortFactor: [1, 1, 2, 2, 3, 3, 4, 4],
      longFactor: [1, 2, 4, 8, 16, 32, 64, 64],
      originalMaxPositionEmbeddings: 100,
    } as const;
    using rope = new RotaryEmbedding({ dim, scaling: longrope, maxSeqLen: 1000, device });
    using x = randomTensor([2, 2, dim], "float32", device);
    for (const [last, divisors] of [[99, longrope.shortFactor], [100, longrope.longFactor], [999, longrope.longFactor]] as const) {
      const frequencies = divisors.map((divisor, pair) => 1e4 ** (-pair / 8) / divisor);
      using own = new RotaryEmbedding({ dim, frequencies, attentionFactor: Math.sqrt(1 + Math.log(10) / Math.log(100)), device });
      using got = rope.rotate(x, { positions: [7, last] });
      using want = own.rotate(x, { positions: [7, last] });
      const a = got.readBlocking() as Float32Array, b = want.readBlocking() as Float32Array;
      a.forEach((value, i) => expect(Math.abs(value - (b[i] ?? NaN))).toBeLessThan(1e-6));
    }
    expect(rope.frequencies[1]).toBe(rope.frequencies[1]);
    expect(Math.abs((rope.frequencies[7] ?? NaN) - 1e4 ** (-7 / 8) / 4)).toBeLessThan(1e-18); // the getters: up to the original length
  });

  test("cached keys are rotated again for a longer context by an embedding without attention factor", () => {
    const longrope = {
      ropeType: "longrope",
      shortFactor: [1, 1, 2, 2, 3, 3, 4, 4],
      longFactor: [1, 2, 4, 8, 16, 32, 64, 64],
      originalMaxPositionEmbeddings: 100,
    } as const;
    for (const rule of [scaling, longrope]) {
      using rope = new RotaryEmbedding({ dim, maxSeqLen: 100, scaling: rule, device });
      using plain = new RotaryEmbedding({ dim, maxSeqLen: 100, scaling: rule, attentionFactor: 1, device });
      using keys = randomTensor([9, 2, dim], "float32", device);
      using cached = rope.rotate(keys, { offset: 40, contextLength: 100 });
      plain.forwardInplace(cached, null, { offset: 40, contextLength: 100, inverse: true });
      plain.forwardInplace(cached, null, { offset: 40, contextLength: 400 });
      using want = rope.rotate(keys, { offset: 40, contextLength: 400 });
      const a = cached.readBlocking() as Float32Array, b = want.readBlocking() as Float32Array;
      a.forEach((value, i) => expect(Math.abs(value - (b[i] ?? NaN))).toBeLessThan(2e-6));
    }
  });

  test("contextLength means nothing to other rules, and is checked all the same", () => {
    using rope = new RotaryEmbedding({ dim, device });
    using x = randomTensor([2, 2, dim], "float32", device);
    using a = rope.rotate(x, { contextLength: 1e6 });
    const [b] = applyRope(x, null);
    expect(same(a, b)).toBe(true);
    b.dispose();
    using dynamic = make();
    for (const contextLength of [0, -1, 1.5, NaN, "8", null]) {
      for (const each of [rope, dynamic]) {
        for (const call of [() => each.rotate(x, { contextLength } as object), () => each.cosSin([1], { contextLength } as object)]) {
          expect((errorOf(call) as { argument?: string }).argument).toBe("contextLength");
        }
      }
    }
  });
});
