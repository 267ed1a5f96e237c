// `exact` angles against fixed-point arithmetic of 192 bits: cos and sin within 2e-7 at every position, and float64 tensors far closer.
import { describe, expect, test } from "bun:test";
import { RopeFaultError, RotaryEmbedding, Tensor } from "../../mod.ts";
import { faultOf } from "../support/devices.ts";
import { oracleCosSin, oracleCosSinOf, oracleFrequency, oracleNumber } from "../support/oracle.ts";
import { devices, numbersOf, open, tensorOf, uniform } from "./support.ts";

const limit = 2 ** 38;
const rotaryDim = 128;
const pairs = rotaryDim / 2;

/** Small ones, powers of two and their neighbours, and random ones of every size up to `most`. */
function positionsUpTo(most: number, count: number): number[] {
  const next = uniform(7);
  const found = new Set([0, 1, 2, 3, 10, 100, 4095, 32767, 131071, 1048575, 10_000_000, most, most - 1]);
  for (let power = 8; power <= most; power *= 2) [power - 1, power, power + 1].forEach((x) => x <= most && found.add(x));
  while (found.size < count) found.add(Math.floor(Math.exp(next() * Math.log(most))));
  return [...found].filter((x) => x <= most);
}

describe.each(devices)("exact angles on %s", (device) => {
  test.each([[1e4], [5e5], [1e7]] as const)(
    "theta %s: cos and sin within 2e-7 at positions up to 2^31 - 1 and their negatives",
    (theta) => {
      const frequencies = Array.from({ length: pairs }, (_, pair) => oracleFrequency(theta, pair, rotaryDim));
      const positive = positionsUpTo(2 ** 31 - 1, 200);
      // -1 is padding among int32.
      const positions = [...positive, ...positive.slice(0, 60).map((x) => -x).filter((x) => x < -1)];
      using rope = new RotaryEmbedding({ dim: rotaryDim, base: theta, device: open(device) });
      const { cos, sin } = rope.cosSin(positions);
      const c = numbersOf(cos), s = numbersOf(sin);
      cos.dispose();
      sin.dispose();
      let worst = 0;
      positions.forEach((position, row) =>
        frequencies.forEach((frequency, pair) => {
          const want = oracleCosSin(BigInt(position), frequency);
          const at = row * pairs + pair;
          worst = Math.max(worst, Math.abs((c[at] ?? NaN) - want.cos), Math.abs((s[at] ?? NaN) - want.sin));
        })
      );
      expect(worst).toBeLessThanOrEqual(2e-7);
    },
  );

  test("float64 tensors: within 2 pi |position| 2^-64 and a few ulp, up to 2^38", () => {
    const theta = 5e5;
    const positions = [...positionsUpTo(limit, 60), -limit, -12_345_678_901];
    using rope = new RotaryEmbedding({ dim: rotaryDim, base: theta, device: open(device) });
    const ones = Float64Array.from({ length: positions.length * rotaryDim }, (_, i) => i % rotaryDim < pairs ? 1 : 0);
    using x = tensorOf(ones, [positions.length, 1, rotaryDim], "float64", rope.device);
    using ids = Tensor.from(BigInt64Array.from(positions, BigInt), [positions.length], { device: rope.device });
    using out = rope.rotate(x, { positions: ids });
    const got = numbersOf(out);
    for (let pair = 0; pair < pairs; ++pair) {
      const frequency = oracleFrequency(theta, pair, rotaryDim);
      positions.forEach((position, row) => {
        const want = oracleCosSin(BigInt(position), frequency);
        const allowed = 2 * Math.PI * Math.abs(position) * 2 ** -64 + 4 * 2 ** -53;
        const c = got[row * rotaryDim + pair] ?? NaN, s = got[row * rotaryDim + pair + pairs] ?? NaN;
        if (!(Math.abs(c - want.cos) <= allowed && Math.abs(s - want.sin) <= allowed)) {
          throw new Error(`position ${position}, pair ${pair}: (${c}, ${s}), exactly (${want.cos}, ${want.sin})`);
        }
      });
    }
  });

  test("fractional positions", () => {
    const next = uniform(3);
    const positions = Float32Array.from([0.5, -0.5, 1.25, 1000.0625, -1, -77.5, ...Array.from({ length: 40 }, () => (next() - 0.5) * 1e5)]);
    const frequencies = Float64Array.from([1, 0.3, 7.25, 100, 1e-3, 2 * Math.PI, 12.9, 1e4]);
    using rope = new RotaryEmbedding({ dim: 16, frequencies, device: open(device) });
    const { cos, sin } = rope.cosSin(positions);
    const c = numbersOf(cos), s = numbersOf(sin);
    cos.dispose();
    sin.dispose();
    positions.forEach((position, row) =>
      frequencies.forEach((frequency, pair) => {
        const want = oracleCosSinOf((oracleNumber(position) * oracleNumber(frequency)) >> 192n);
        const at = row * 8 + pair;
        expect(Math.abs((c[at] ?? NaN) - want.cos)).toBeLessThanOrEqual(2e-7);
        expect(Math.abs((s[at] ?? NaN) - want.sin)).toBeLessThanOrEqual(2e-7);
      })
    );
  });

  test("positions beyond 2^38 are faults, and at it none", () => {
    using rope = new RotaryEmbedding({ dim: 8, device: open(device) });
    for (const sign of [1, -1]) {
      const { cos, sin } = rope.cosSin([sign * limit]);
      cos.dispose();
      sin.dispose();
      const error = faultOf(rope.device, () => {
        const bad = rope.cosSin([0, sign * (limit + 1)]);
        bad.cos.dispose();
        bad.sin.dispose();
      }) as RopeFaultError;
      expect(error).toBeInstanceOf(RopeFaultError);
      expect(error.fault).toMatchObject({ code: "position", index: 1, value: sign * (limit + 1), limit });
    }
  });

  test("hf: the float32 product, and a cosine and sine of it that are right", () => {
    const positions = positionsUpTo(2 ** 31 - 1, 120);
    using rope = new RotaryEmbedding({ dim: rotaryDim, base: 1e4, angles: "hf", device: open(device) });
    const invFreq = rope.invFreq;
    let worst = 0;
    const { cos, sin } = rope.cosSin(positions);
    const c = numbersOf(cos), s = numbersOf(sin);
    cos.dispose();
    sin.dispose();
    positions.forEach((position, row) =>
      invFreq.forEach((frequency, pair) => {
        const want = oracleCosSinOf(oracleNumber(Math.fround(Math.fround(position) * frequency)));
        const at = row * pairs + pair;
        worst = Math.max(worst, Math.abs((c[at] ?? NaN) - want.cos), Math.abs((s[at] ?? NaN) - want.sin));
      })
    );
    expect(worst).toBeLessThanOrEqual(1e-7);
  });
});
