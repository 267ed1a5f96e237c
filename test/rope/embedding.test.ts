// What an embedding is made of: frequencies from rules and from the caller, on axes and of heads, and what it tells of them.
import { describe, expect, test } from "bun:test";
import { applyRope, type ForwardOptions, RopeArgumentError, RotaryEmbedding, Tensor } from "../../mod.ts";
import { referenceRope } from "../../src/testing.ts";
import { devices, distance, errorOf, numbersOf, open, randomTensor, same } from "./support.ts";

describe.each(devices)("RotaryEmbedding on %s", (name) => {
  const device = open(name);
  test("several axes: the angles add up", () => {
    const frequencies = Float64Array.from([1, 0.5, 0, 0, 0, 0, 0.25, 2, 0.1, 0.1, 0.1, 0.1]); // [3, 4]
    using rope = new RotaryEmbedding({ dim: 8, axes: 3, frequencies, device });
    const positions = [1, 2, 3, 4, 5, 6, 7, 8, 9]; // axis by axis
    using x = randomTensor([3, 2, 8], "float32", device);
    using got = rope.rotate(x, { positions });
    const want = referenceRope(numbersOf(x), [3, 2, 8], { positions, axes: 3, frequencies });
    expect(distance(numbersOf(got), want)).toBeLessThan(2e-6);
    using ids = Tensor.from(positions, [3, 3], { dtype: "int64", device });
    using other = rope.rotate(x, { positions: ids });
    expect(same(other, got)).toBe(true);
    using batched = x.reshape([1, 3, 2, 8]);
    using ids3 = ids.reshape([3, 1, 3]);
    using third = rope.rotate(batched, { positions: ids3 });
    expect(same(third, got)).toBe(true);
  });

  test("of each head, which q and k must have", () => {
    const frequencies = Float64Array.from({ length: 3 * 4 }, (_, i) => 1 / (i + 1));
    using rope = new RotaryEmbedding({ dim: 8, frequencies, device });
    using x = randomTensor([4, 3, 8], "float32", device);
    using got = rope.rotate(x, { offset: 10 });
    const positions = Float64Array.of(10, 11, 12, 13);
    expect(distance(numbersOf(got), referenceRope(numbersOf(x), [4, 3, 8], { positions, frequencies }))).toBeLessThan(2e-6);
    const { cos, sin } = rope.cosSin([1, 2]);
    expect(cos.shape).toEqual([2, 3, 4]);
    expect(Math.abs((numbersOf(cos)[4] ?? NaN) - Math.cos(1 / 5))).toBeLessThan(2e-7);
    cos.dispose();
    sin.dispose();
  });

  test("axisOfPair: [R/2] frequencies read back, positions [axes, n]", () => {
    const axisOfPair = [0, 1, 2, 2, 1, 0, 0, 0];
    using rope = new RotaryEmbedding({ dim: 16, axisOfPair, base: 100, device });
    expect(rope.axes).toBe(3);
    rope.frequencies.forEach((frequency, j) => expectNear(frequency, 100 ** (-j / 8)));
    expect(rope.frequencies.length).toBe(8);
    expect(rope.invFreq.length).toBe(8);
    const positions = Array.from({ length: 3 * 5 }, (_, i) => i * 7 - 20);
    using x = randomTensor([5, 2, 16], "float32", device);
    using got = rope.rotate(x, { positions });
    const want = referenceRope(numbersOf(x), [5, 2, 16], { positions, axes: 3, axisOfPair, base: 100 });
    expect(distance(numbersOf(got), want)).toBeLessThan(2e-6);
  });

  test("read back as they were given, in copies", () => {
    const given = Float64Array.from([0.1, -2, 0, 1e-9]);
    using rope = new RotaryEmbedding({ dim: 8, frequencies: given, device });
    given[0] = 99;
    const read = rope.frequencies;
    expect([...read]).toEqual([0.1, -2, 0, 1e-9]);
    read[0] = 77;
    expect(rope.frequencies[0]).toBe(0.1);
    expect([...rope.invFreq]).toEqual([0.1, -2, 0, 1e-9].map(Math.fround));
  });

  test("frequencies of anything that has a length", () => {
    using want = new RotaryEmbedding({ dim: 4, frequencies: [1, 0.5], device });
    for (const frequencies of [{ length: 2, 0: 1, 1: 0.5 }, Float32Array.of(1, 0.5), Float16Array.of(1, 0.5)]) {
      using got = new RotaryEmbedding({ dim: 4, frequencies, device });
      expect([...got.frequencies]).toEqual([...want.frequencies]);
    }
    for (
      const frequencies of [{ length: 2, 0: 1 }, { length: -2 }, { length: 1.5 }, { length: 2 ** 40 }, { length: "2" }, "12", [1n, 2n]]
    ) {
      const error = errorOf(() => new RotaryEmbedding({ dim: 4, frequencies: frequencies as ArrayLike<number>, device }));
      expect(error).toBeInstanceOf(RopeArgumentError);
    }
  });

  test("llama3 without an original length starts from maxSeqLen, which is 2048 unless given", () => {
    const scaling = { ropeType: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4 } as const;
    for (const maxSeqLen of [undefined, 8192]) {
      using got = new RotaryEmbedding({ dim: 64, base: 5e5, maxSeqLen, scaling, device });
      using want = new RotaryEmbedding({
        dim: 64,
        base: 5e5,
        scaling: { ...scaling, originalMaxPositionEmbeddings: maxSeqLen ?? 2048 },
        device,
      });
      expect([...got.frequencies]).toEqual([...want.frequencies]);
    }
  });

  test("one type of options for every method", () => {
    using rope = new RotaryEmbedding({ dim: 16, device });
    using x = randomTensor([4, 2, 16], "float32", device);
    const options: ForwardOptions = { offset: 9 };
    using want = rope.rotate(x, options);
    using out = Tensor.zeros([4, 2, 16], { device });
    const into: ForwardOptions = { ...options, out };
    expect(rope.rotate(x, into)).toBe(out);
    expect(same(out, want)).toBe(true);
    const [q] = rope.forward(x, null, { ...options, out: [out, null] });
    expect(q).toBe(out);
    rope.forwardInplace(x, null, options);
    expect(same(x, want)).toBe(true);
    expect(errorOf(() => rope.forward(x, null, into))).toBeInstanceOf(RopeArgumentError);
    expect(errorOf(() => rope.rotate(x, { out: [out, null] }))).toBeInstanceOf(RopeArgumentError);
    expect(errorOf(() => rope.forwardInplace(x, null, into))).toBeInstanceOf(RopeArgumentError);
  });

  test("conjugate negates sin, of cosSin too; inverse undoes it", () => {
    using plain = new RotaryEmbedding({ dim: 16, attentionFactor: 1.5, device });
    using rope = new RotaryEmbedding({ dim: 16, attentionFactor: 1.5, conjugate: true, device });
    using x = randomTensor([4, 2, 16], "float32", device);
    using a = plain.rotate(x, { offset: 9, inverse: true });
    using b = rope.rotate(x, { offset: 9 });
    expect(same(a, b)).toBe(true);
    const p = plain.cosSin([3, 4]), r = rope.cosSin([3, 4]);
    expect([...numbersOf(r.sin)]).toEqual([...numbersOf(p.sin)].map((value) => -value));
    expect(same(r.cos, p.cos)).toBe(true);
    expect(Math.abs((numbersOf(p.cos)[0] ?? NaN) - 1.5 * Math.cos(3))).toBeLessThan(3e-7);
    for (const tensor of [p.cos, p.sin, r.cos, r.sin]) tensor.dispose();
  });

  test("cosSin of padding is 1 and 0", () => {
    using rope = new RotaryEmbedding({ dim: 16, attentionFactor: 1.5, device });
    const { cos, sin } = rope.cosSin([-1]);
    expect([...numbersOf(cos), ...numbersOf(sin)]).toEqual([...new Array(8).fill(1), ...new Array(8).fill(0)]);
    cos.dispose();
    sin.dispose();
  });

  test("ropeScale divides positions; Llama 3.1 with equal factors is a step", () => {
    using x = randomTensor([4, 2, 64], "float64", device);
    const [scaled] = applyRope(x, null, { ropeScale: 4, offset: 400 });
    const positions = Float64Array.of(100, 100.25, 100.5, 100.75);
    expect(distance(numbersOf(scaled), referenceRope(numbersOf(x), [4, 2, 64], { positions }))).toBeLessThan(1e-11);
    scaled.dispose();
    using linear = new RotaryEmbedding({ dim: 64, scaling: { ropeType: "linear", factor: 4 }, device });
    using same4 = linear.rotate(x, { offset: 400 });
    expect(distance(numbersOf(same4), referenceRope(numbersOf(x), [4, 2, 64], { positions }))).toBeLessThan(1e-11);
    const step = new RotaryEmbedding({
      dim: 64,
      base: 5e5,
      scaling: { ropeType: "llama3", factor: 16, lowFreqFactor: 1, highFreqFactor: 1, originalMaxPositionEmbeddings: 8192 },
      device,
    });
    step.frequencies.forEach((frequency, j) => {
      const plain = 5e5 ** (-j / 32);
      expectNear(frequency, 2 * Math.PI / plain > 8192 ? plain / 16 : plain);
    });
    step.dispose();
  });
});

/** Within 2e-15 of what was expected, relatively. */
function expectNear(value: number, wanted: number): void {
  if (!(Math.abs(value - wanted) <= 2e-15 * Math.abs(wanted))) throw new Error(`${value} is not ${wanted}`);
}
