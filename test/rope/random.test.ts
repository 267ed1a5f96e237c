// Random shapes, strides, dtypes and options against the float64 reference: outputs are views inside poisoned memory, of which nothing else may
// change; in place must equal out of place and strided contiguous, bit for bit. A failure prints its seed; fast-check shrinks it.
import fc from "fast-check";
import { describe, expect, test } from "bun:test";
import { type Device, RotaryEmbedding, Tensor } from "../../mod.ts";
import { referenceRope } from "../../src/testing.ts";
import {
  bytesOf,
  devices,
  dtypes,
  firstDifference,
  numbersOf,
  open,
  pairings,
  type RotaryDType,
  samples,
  tolerance,
  typed,
  uniform,
} from "./support.ts";

const placements = ["none", "offset", "int32", "int64", "float32", "numbers", "offsets", "indptr"] as const;

const anyCase = fc.record({
  dtype: fc.constantFrom(...dtypes),
  rank: fc.constantFrom(2, 3, 4),
  batch: fc.integer({ min: 0, max: 3 }),
  tokens: fc.integer({ min: 0, max: 7 }),
  queryHeads: fc.integer({ min: 1, max: 4 }),
  keyHeads: fc.integer({ min: 0, max: 3 }),
  pairs: fc.integer({ min: 1, max: 40 }),
  before: fc.integer({ min: 0, max: 5 }),
  behind: fc.integer({ min: 0, max: 5 }),
  pairing: fc.constantFrom(...pairings),
  placement: fc.constantFrom(...placements),
  axes: fc.integer({ min: 1, max: 3 }),
  perHead: fc.boolean(),
  inverse: fc.boolean(),
  conjugate: fc.boolean(),
  attentionFactor: fc.constantFrom(1, 1, 0.5, 1.25),
  gaps: fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 8, maxLength: 8 }),
  seed: fc.nat(),
});
type Case = typeof anyCase extends fc.Arbitrary<infer T> ? T : never;

/** A view of the shape inside larger memory that is all poison, with gaps before and behind on every axis. */
class Island {
  readonly view: Tensor;
  readonly #base: Tensor;
  readonly #shape: number[];
  readonly #gaps: number[];

  constructor(shape: number[], gaps: number[], dtype: RotaryDType, device: Device) {
    this.#shape = shape;
    this.#gaps = gaps;
    const outer = shape.map((length, axis) => length + (gaps[2 * axis] ?? 0) + (gaps[2 * axis + 1] ?? 0));
    const words = typed(new Float64Array(outer.reduce((a, b) => a * b, 1)), dtype);
    new Uint8Array(words.buffer).fill(0xa5);
    this.#base = Tensor.empty(outer, { dtype, device }).write(words);
    let view: Tensor = this.#base.slice(0, 0);
    shape.forEach((length, axis) => {
      const inner = view.slice(axis, gaps[2 * axis] ?? 0, (gaps[2 * axis] ?? 0) + length);
      view.dispose();
      view = inner;
    });
    this.view = view;
  }

  /** Whether the water around it is as it was. */
  get dry(): boolean {
    const data = bytesOf(this.#base);
    const outer = this.#base.shape;
    const width = data.length / Math.max(this.#base.size, 1);
    for (let i = 0; i < this.#base.size; ++i) {
      let rest = i;
      let inside = true;
      for (let axis = outer.length - 1; axis >= 0; --axis) {
        const index = rest % (outer[axis] ?? 1) - (this.#gaps[2 * axis] ?? 0);
        rest = Math.floor(rest / (outer[axis] ?? 1));
        inside &&= index >= 0 && index < (this.#shape[axis] ?? 0);
      }
      if (!inside && !data.subarray(i * width, (i + 1) * width).every((byte) => byte === 0xa5)) return false;
    }
    return true;
  }

  [Symbol.dispose](): void {
    this.view.dispose();
    this.#base.dispose();
  }
}

interface Placed {
  /** What the library is given; tensors among them are disposed of afterwards. */
  readonly options: { positions?: Tensor | number[]; offset?: number; offsets?: Tensor | number[]; indptr?: Tensor | number[] };
  /** What the reference is given. */
  readonly positions: Float64Array | Int32Array;
}

function place(it: Case, batch: number, device: Device): Placed {
  const next = uniform(it.seed);
  const whole = (from: number, to: number): number => from + Math.floor(next() * (to - from));
  const { tokens, axes } = it;
  const rows = it.rank === 4 ? batch : 1;
  const count = axes * rows * tokens;
  const shape = [...axes > 1 ? [axes] : [], ...it.rank === 4 ? [rows] : [], tokens];
  const kind = axes > 1 && !["int32", "int64", "float32", "numbers"].includes(it.placement) ? "int32" : it.placement;
  const integers = Int32Array.from({ length: count }, () => next() < 0.2 ? -1 : whole(-50, 5000));
  const derived = (start: (row: number) => number): Float64Array =>
    Float64Array.from({ length: rows * tokens }, (_, i) => start(Math.floor(i / Math.max(tokens, 1))) + i % Math.max(tokens, 1));
  switch (kind) {
    case "none":
      return { options: {}, positions: derived(() => 0) };
    case "offset": {
      const offset = whole(-100, 4000);
      return { options: { offset }, positions: derived(() => offset) };
    }
    case "int32":
      return { options: { positions: Tensor.from(integers, shape, { device }) }, positions: integers };
    case "int64":
      return { options: { positions: Tensor.from(BigInt64Array.from(integers, BigInt), shape, { device }) }, positions: integers };
    case "numbers":
      return { options: { positions: [...integers] }, positions: integers };
    case "float32": {
      const floats = Float32Array.from(integers, (x) => next() < 0.1 ? NaN : next() < 0.5 ? x : x + whole(0, 8) / 8);
      return { options: { positions: Tensor.from(floats, shape, { device }) }, positions: Float64Array.from(floats) };
    }
    case "offsets": {
      const starts = Array.from({ length: rows }, () => whole(-100, 4000));
      return { options: { offsets: starts }, positions: derived((row) => starts[row] ?? NaN) };
    }
    case "indptr": {
      if (it.rank === 4) return { options: {}, positions: derived(() => 0) };
      const requests = whole(1, 4);
      const cuts = Array.from({ length: requests + 1 }, () => whole(0, tokens + 1)).sort((a, b) => a - b);
      const starts = Array.from({ length: requests }, () => whole(-100, 4000));
      const positions = new Float64Array(tokens).fill(NaN); // outside of all requests: as it is
      for (let r = 0; r < requests; ++r) {
        for (let t = cuts[r] ?? 0; t < (cuts[r + 1] ?? 0); ++t) positions[t] = (starts[r] ?? NaN) + t - (cuts[r] ?? NaN);
      }
      return { options: { indptr: Tensor.from(cuts, [cuts.length], { dtype: "int64", device }), offsets: starts }, positions };
    }
  }
}

function check(it: Case, device: Device): void {
  const batch = it.rank === 4 ? it.batch : 1;
  const dim = it.before + 2 * it.pairs + it.behind;
  const perHead = it.perHead && (it.keyHeads === 0 || it.keyHeads === it.queryHeads);
  const next = uniform(it.seed + 1);
  const frequencies = Float64Array.from(
    { length: it.axes * (perHead ? it.queryHeads : 1) * it.pairs },
    () => next() < 0.1 ? 0 : Math.exp(-6 * next()) * (next() < 0.2 ? -1 : 1),
  );
  using rope = new RotaryEmbedding({
    dim,
    rotaryDim: 2 * it.pairs,
    rotaryOffset: it.before,
    pairing: it.pairing,
    axes: it.axes,
    frequencies,
    attentionFactor: it.attentionFactor,
    conjugate: it.conjugate,
    device,
  });
  const placed = place(it, batch, device);
  const options = { ...placed.options, inverse: it.inverse, ...it.rank === 2 ? { headDim: dim } : {} };
  const shapeOf = (heads: number): number[] =>
    it.rank === 4 ? [batch, it.tokens, heads, dim] : it.rank === 3 ? [it.tokens, heads, dim] : [it.tokens, heads * dim];
  const all = [it.queryHeads, ...it.keyHeads > 0 ? [it.keyHeads] : []];
  const inputs = all.map((heads, i) => samples(batch * it.tokens * heads * dim, it.dtype, it.seed + i));
  const island = (heads: number): Island => new Island(shapeOf(heads), it.gaps, it.dtype, device);
  using stack = new DisposableStack();
  for (const tensor of Object.values(placed.options)) if (tensor instanceof Tensor) stack.use(tensor);

  const [qIn, kIn] = all.map((heads, i) => {
    const made = stack.use(island(heads));
    made.view.write(typed(inputs[i] ?? [], it.dtype));
    return made;
  });
  const outs = all.map((heads) => stack.use(island(heads)));
  if (qIn === undefined) throw new Error("there is always a q");
  const k = kIn?.view ?? null;
  rope.forward(qIn.view, k, { ...options, out: [outs[0]?.view ?? qIn.view, outs[1]?.view ?? null] });
  const results = outs.map((out) => numbersOf(out.view));
  const resultBytes = outs.map((out) => bytesOf(out.view).slice());
  for (const out of outs) expect(out.dry).toBe(true);

  // The inputs are as they were; new tensors and contiguous inputs give the same bits.
  const ins = [qIn, ...kIn === undefined ? [] : [kIn]];
  ins.forEach((made, i) => expect(numbersOf(made.view).every((value, at) => value === inputs[i]?.[at])).toBe(true));
  const dense = ins.map((made) => stack.use(made.view.contiguous()));
  const fresh = rope.forward(dense[0] ?? qIn.view, dense[1] ?? null, options);
  fresh.forEach((tensor, i) => {
    if (tensor === null) return;
    expect(firstDifference(bytesOf(tensor), resultBytes[i] ?? new Uint8Array())).toBe(-1);
    tensor.dispose();
  });

  // In place, too.
  rope.forwardInplace(qIn.view, k, options);
  ins.forEach((made, i) => {
    expect(firstDifference(bytesOf(made.view), resultBytes[i] ?? new Uint8Array())).toBe(-1);
    expect(made.dry).toBe(true);
  });

  results.forEach((got, i) => {
    const heads = all[i] ?? 0;
    const x = inputs[i] ?? new Float64Array();
    const full = it.rank === 4 ? [batch, it.tokens, heads, dim] : [it.tokens, heads, dim];
    const want = referenceRope(x, full, {
      positions: placed.positions,
      axes: it.axes,
      frequencies,
      rotaryDim: 2 * it.pairs,
      rotaryOffset: it.before,
      pairing: it.pairing,
      inverse: it.inverse,
      conjugate: it.conjugate,
      attentionFactor: it.attentionFactor,
    });
    const angle = it.dtype === "float64" ? 1e-11 : 2e-7 + 2 ** -23; // attention factor and positions below 5000
    for (let at = 0; at < want.length; ++at) {
      const exact = want[at] ?? NaN;
      if (!(Math.abs((got[at] ?? NaN) - exact) <= tolerance(exact, 2 * it.attentionFactor, 2 * it.attentionFactor, it.dtype, angle))) {
        throw new Error(`${i === 0 ? "q" : "k"}[${at}] is ${got[at]}, the reference ${exact}`);
      }
    }
  });
}

describe.each(devices)("random rotations on %s", (name) => {
  const device = open(name);

  test("agree with the reference", () => {
    const before = device.memory();
    fc.assert(fc.property(anyCase, (it) => check(it, device)), { numRuns: 600 });
    // Less where the net has caught what another test forgot.
    expect(device.memory().liveTensors).toBeLessThanOrEqual(before.liveTensors);
    expect(device.memory().bytesInUse).toBeLessThanOrEqual(before.bytesInUse);
  });
});
