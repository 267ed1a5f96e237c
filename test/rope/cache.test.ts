// cosSinCache and buildRopeCache: every value against fixed-point arithmetic of 192 bits, rounded once; layouts, rules, refusals.
import { describe, expect, test } from "bun:test";
import { buildRopeCache, RopeArgumentError, RopeDisposedError, type RopeError, RotaryEmbedding } from "../../mod.ts";
import { oracleCosSin, oracleFrequency } from "../support/oracle.ts";
import { devices, errorOf, numbersOf, open, ulp } from "./support.ts";

const theta = 5e5;

function refuse(
  call: () => unknown,
  kind: typeof RopeArgumentError | typeof RopeDisposedError,
  operation: string,
  argument: string,
): void {
  const error = errorOf(call) as RopeError;
  expect(error).toBeInstanceOf(kind);
  expect([error.operation, error.argument]).toEqual([operation, argument]);
}

describe.each(devices)("tables on %s", (name) => {
  const device = open(name);

  test.each(["float32", "float16", "bfloat16"] as const)(
    "cosSinCache in %s: a row is the cosines of a position, then its sines",
    (dtype) => {
      using rope = new RotaryEmbedding({ dim: 64, rotaryDim: 48, base: theta, device });
      using cache = rope.cosSinCache(300, { dtype });
      expect([cache.dtype, ...cache.shape]).toEqual([dtype, 300, 48]);
      const got = numbersOf(cache);
      for (let pair = 0; pair < 24; ++pair) {
        const frequency = oracleFrequency(theta, pair, 48);
        for (const position of [0, 1, 2, 17, 255, 299]) {
          const want = oracleCosSin(BigInt(position), frequency);
          const close = (value: number, at: number): void => {
            expect(Math.abs((got[at] ?? NaN) - value)).toBeLessThanOrEqual(2e-7 + (dtype === "float32" ? 0 : ulp(value, dtype) / 2));
          };
          close(want.cos, position * 48 + pair);
          close(want.sin, position * 48 + 24 + pair);
        }
      }
    },
  );

  test("cosSinCache is cosSin side by side, and has maxSeqLen rows unless told otherwise", () => {
    using rope = new RotaryEmbedding({ dim: 32, maxSeqLen: 40, device });
    using cache = rope.cosSinCache();
    expect(cache.shape).toEqual([40, 32]);
    const { cos, sin } = rope.cosSin(Array.from({ length: 40 }, (_, i) => i));
    using left = cache.slice(1, 0, 16), right = cache.slice(1, 16, 32);
    expect(numbersOf(left)).toEqual(numbersOf(cos));
    expect(numbersOf(right)).toEqual(numbersOf(sin));
    cos.dispose();
    sin.dispose();
    using none = rope.cosSinCache(0);
    expect(none.shape).toEqual([0, 32]);
  });

  test("contextLength decides for rules that depend on the length; buildRopeCache takes its own", () => {
    const scaling = { ropeType: "dynamic", factor: 4 } as const;
    using rope = new RotaryEmbedding({ dim: 32, maxSeqLen: 2048, scaling, device });
    using short = rope.cosSinCache(8), long = rope.cosSinCache(8, { contextLength: 8192 });
    expect(numbersOf(short)).not.toEqual(numbersOf(long));
    const { cos, sin } = buildRopeCache({ seqLen: 8192, headDim: 32, scaling, device });
    using first = cos.slice(0, 0, 8), left = long.slice(1, 0, 16);
    expect(cos.shape).toEqual([8192, 16]);
    expect(numbersOf(first)).toEqual(numbersOf(left));
    cos.dispose();
    sin.dispose();
  });

  test("buildRopeCache in bfloat16 is its float32 values rounded", () => {
    const wide = buildRopeCache({ seqLen: 64, headDim: 32, base: theta, device });
    const narrow = buildRopeCache({ seqLen: 64, headDim: 32, base: theta, dtype: "bfloat16", device });
    for (const which of ["cos", "sin"] as const) {
      using rounded = wide[which].to("bfloat16");
      expect(narrow[which].dtype).toBe("bfloat16");
      expect(numbersOf(narrow[which])).toEqual(numbersOf(rounded));
      wide[which].dispose();
      narrow[which].dispose();
    }
  });

  test("refusals name what is wrong, and nothing is left behind", () => {
    const rope = new RotaryEmbedding({ dim: 32, device });
    const { liveTensors } = device.memory();
    for (const bad of [-1, 1.5, NaN, "8", 2 ** 53, null]) {
      refuse(() => rope.cosSinCache(bad as number), RopeArgumentError, "RotaryEmbedding.cosSinCache", "maxPosition");
      refuse(() => buildRopeCache({ seqLen: bad as number, headDim: 32, device }), RopeArgumentError, "buildRopeCache", "seqLen");
    }
    for (const dtype of ["float64", "int32", "half", 1]) {
      refuse(() => rope.cosSinCache(8, { dtype: dtype as "float32" }), RopeArgumentError, "RotaryEmbedding.cosSinCache", "dtype");
      refuse(
        () => buildRopeCache({ seqLen: 8, headDim: 32, dtype: dtype as "float32", device }),
        RopeArgumentError,
        "buildRopeCache",
        "dtype",
      );
    }
    for (const headDim of [0, 3, -2, 2.5, undefined]) {
      refuse(() => buildRopeCache({ seqLen: 8, headDim: headDim as number, device }), RopeArgumentError, "buildRopeCache", "headDim");
    }
    refuse(() => buildRopeCache({ seqLen: 8, headDim: 32, base: -1, device }), RopeArgumentError, "buildRopeCache", "base");
    refuse(() => rope.cosSinCache(8, { contextLength: 0 }), RopeArgumentError, "RotaryEmbedding.cosSinCache", "contextLength");
    using axes = new RotaryEmbedding({ dim: 32, axisOfPair: Array.from({ length: 16 }, (_, i) => i % 2), device });
    refuse(() => axes.cosSinCache(8), RopeArgumentError, "RotaryEmbedding.cosSinCache", "this");
    rope.dispose();
    refuse(() => rope.cosSinCache(8), RopeDisposedError, "RotaryEmbedding.cosSinCache", "this");
    expect(device.memory().liveTensors).toBe(liveTensors);
  });
});
