// Views against an array without strides (../support/plain_array.ts): random chains of them, and what each refuses.
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { RopeArgumentError, RopeDisposedError, Tensor } from "../../mod.ts";
import { notIntegers, notObjects } from "../support/coercion.ts";
import { devices, liveChange, open } from "../support/devices.ts";
import { flat, plainArange, type PlainArray, plainReshape, plainSelect, plainSlice, plainTranspose } from "../support/plain_array.ts";

// deno-lint-ignore no-explicit-any
type Loose = any;

/** One step of a chain; its numbers are reduced to what fits where it is applied. */
const step = fc.record({
  kind: fc.constantFrom("slice", "select", "transpose", "reshape"),
  a: fc.nat(),
  b: fc.nat(),
  c: fc.nat(),
  negative: fc.boolean(),
});
type Step = typeof step extends fc.Arbitrary<infer Value> ? Value : never;

/** Lengths of another shape for `size` elements, of a rank that tensors may have. */
function otherShape(size: number, seed: number): number[] {
  const shape: number[] = [];
  let rest = size;
  for (let divisor = 2; rest > 1 && shape.length < 4; divisor++) {
    while (rest % divisor === 0 && shape.length < 4) {
      shape.splice(seed % (shape.length + 1), 0, divisor);
      rest /= divisor;
    }
  }
  if (rest !== 1 || seed % 3 === 0) shape.push(rest);
  return shape;
}

function apply(tensor: Tensor, plain: PlainArray, { kind, a, b, c, negative }: Step): [Tensor, PlainArray] | null {
  const rank = plain.shape.length;
  if (kind === "reshape") {
    const shape = otherShape(tensor.size, a);
    const given = negative && tensor.size > 0 && shape.length > 0 ? shape.with(b % shape.length, -1) : shape;
    if (tensor.isContiguous) return [tensor.reshape(given), plainReshape(plain, shape)];
    try {
      return [tensor.reshape(given), plainReshape(plain, shape)]; // where the strides allow it the elements must be right
    } catch (error) {
      if (!(error instanceof RopeArgumentError)) throw error;
      using dense = tensor.contiguous();
      return [dense.reshape(given), plainReshape(plain, shape)];
    }
  }
  if (rank === 0) return null;
  const axis = a % rank;
  const named = negative ? axis - rank : axis;
  const length = plain.shape[axis] ?? 0;
  if (kind === "transpose") return [tensor.transpose(named, b % rank), plainTranspose(plain, axis, b % rank)];
  if (kind === "select") {
    if (length === 0) return null;
    return [tensor.select(named, negative ? b % length - length : b % length), plainSelect(plain, axis, b % length)];
  }
  const start = b % (length + 1);
  const end = start + c % (length - start + 1);
  const from = negative && start < length ? start - length : start;
  return [end === length && negative ? tensor.slice(named, from) : tensor.slice(named, from, end), plainSlice(plain, axis, start, end)];
}

describe.each(devices)("on %s", (name) => {
  const device = open(name);

  test("random chains of views have the elements of an array without strides", () => {
    const start = fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 5 });
    fc.assert(
      fc.property(start, fc.array(step, { maxLength: 6 }), (shape, steps) => {
        const change = liveChange(device, () => {
          let tensor: Tensor = Tensor.arange(shape.reduce((product, length) => product * length, 1), { device });
          let plain = plainArange(shape);
          tensor = replaced(tensor, tensor.reshape(shape));
          for (const next of steps) {
            const result = apply(tensor, plain, next);
            if (result === null) continue;
            tensor = replaced(tensor, result[0]);
            plain = result[1];
            expect(tensor.shape).toEqual(plain.shape);
            expect([...tensor.readBlocking()].map(Number)).toEqual(flat(plain));
          }
          expect(tensor.size).toBe(flat(plain).length);
          tensor.dispose();
        });
        expect(change).toEqual({ bytesInUse: 0, liveTensors: 0 });
      }),
      { numRuns: 400 },
    );
  });

  test("views share the memory, and outlive their base", () => {
    const base = Tensor.zeros([4, 6], { device });
    const row = base.select(0, 2);
    const column = base.slice(1, 1, 2);
    row.write([1, 2, 3, 4, 5, 6]);
    expect([...column.readBlocking()]).toEqual([0, 0, 2, 0]);
    const held = device.memory().bytesInUse;
    base.dispose();
    expect(device.memory().bytesInUse).toBe(held);
    expect([...row.readBlocking()]).toEqual([1, 2, 3, 4, 5, 6]);
    row.dispose();
    expect([...column.readBlocking()]).toEqual([0, 0, 2, 0]);
    column.dispose();
    expect(device.memory().bytesInUse).toBe(held - 96);
  });

  test("disposing of a view leaves the base alone", () => {
    using base = Tensor.full([3], 5, { device });
    base.slice(0, 1).dispose();
    expect([...base.readBlocking()]).toEqual([5, 5, 5]);
  });

  test("strides and contiguity", () => {
    using x = Tensor.zeros([2, 3, 4], { device });
    expect([x.strides, x.isContiguous]).toEqual([[12, 4, 1], true]);
    using t = x.transpose(0, 2);
    expect([t.shape, t.strides, t.isContiguous]).toEqual([[4, 3, 2], [1, 4, 12], false]);
    using s = x.slice(0, 1);
    expect([s.shape, s.strides, s.isContiguous]).toEqual([[1, 3, 4], [12, 4, 1], true]);
    using c = x.slice(2, 0, 1);
    expect(c.isContiguous).toBe(false);
    using one = c.select(0, 0).slice(0, 0, 1);
    expect([one.shape, one.isContiguous]).toEqual([[1, 1], true]);
    using none = t.slice(1, 1, 1);
    expect([none.shape, none.isContiguous, none.readBlocking().length]).toEqual([[4, 0, 2], true, 0]);
  });

  test("reshape where the strides allow it, and advice where they do not", () => {
    using x = Tensor.arange(24, { device });
    using r = x.reshape([2, 3, 4]);
    using columns = r.slice(2, 0, 2);
    using merged = columns.reshape([6, 2]);
    expect([merged.strides, [...merged.readBlocking()]]).toEqual([[4, 1], [0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21]]);
    using split = columns.reshape([2, 3, 1, 2, 1]);
    expect(split.shape).toEqual([2, 3, 1, 2, 1]);
    expect(() => columns.reshape([12])).toThrow(
      "Tensor.reshape: shape must be one that the strides [12, 4, 1] of shape [2, 3, 2] allow without a copy, got [12]. " +
        "Copy first: tensor.contiguous().reshape(...).",
    );
    using swapped = r.transpose(0, 1);
    expect(() => swapped.reshape([6, 4])).toThrow(RopeArgumentError);
  });

  test("reshape infers one -1 and refuses what does not fit", () => {
    using x = Tensor.zeros([4, 6], { device });
    using y = x.reshape([2, -1, 3]);
    expect(y.shape).toEqual([2, 4, 3]);
    for (const shape of [[5], [-1, 5], [-1, -1], [0, -1], [], [24, 0], [4, 6, 1, 1, 1, 1, 1]]) {
      expect(() => x.reshape(shape)).toThrow(RopeArgumentError);
    }
    for (const { value } of notIntegers) {
      expect(() => (x as Loose).reshape([4, value])).toThrow(/shape\[1\] must be an integer of at least -1/);
    }
    for (const { value } of notObjects.filter(({ value }) => !Array.isArray(value))) {
      expect(() => (x as Loose).reshape(value)).toThrow(/shape must be an array of counts/);
    }
    expect(() => (x as Loose).reshape(new Int32Array([24]))).toThrow(/Convert it: Array\.from\(shape\)\.$/);
    using none = Tensor.zeros([0, 3], { device });
    using still = none.reshape([3, 0, 7]);
    expect(still.size).toBe(0);
    expect(() => none.reshape([-1, 0])).toThrow(RopeArgumentError); // anything would fit
  });

  test("axes, indices and bounds: integers in range, negative ones from the end", () => {
    using x = Tensor.arange(6, { device });
    using y = x.reshape([2, 3]);
    for (const { value } of notIntegers) {
      const z = y as Loose;
      expect(() => z.slice(value, 0)).toThrow(/axis must be an axis from -2 to 1/);
      expect(() => z.select(value, 0)).toThrow(/axis must be/);
      expect(() => z.transpose(0, value)).toThrow(/b must be/);
      expect(() => z.transpose(value, 0)).toThrow(/a must be/);
      expect(() => z.select(0, value)).toThrow(/index must be an integer from -2 to 1/);
      expect(() => z.slice(1, value)).toThrow(/start must be an integer from 0 to 3/);
      if (value !== undefined) expect(() => z.slice(1, 0, value)).toThrow(/end must be an integer from 0 to 3/);
    }
    for (const axis of [2, -3]) expect(() => y.slice(axis, 0)).toThrow(/axis/);
    for (const index of [2, -3]) expect(() => y.select(0, index)).toThrow(/index/);
    for (const bounds of [[4], [-4], [2, 1], [0, 4], [-1, -2]] as [number, number?][]) {
      expect(() => y.slice(1, ...bounds)).toThrow(RopeArgumentError);
    }
    expect(() => y.slice(1, 2, 1)).toThrow("Tensor.slice: start must be at most end, which is 1 here, got 2.");
    expect(() => y.slice(1, -1, -2)).toThrow("Tensor.slice: start must be at most end, which is 1 here, got 2.");
    using last = y.slice(-1, -2, -1);
    expect([...last.readBlocking()]).toEqual([1, 4]);
    using scalar = x.select(0, 0);
    expect(() => scalar.select(0, 0)).toThrow("Tensor.select: a tensor of rank 0 has no axes.");
    using none = x.slice(0, 6);
    expect(() => none.select(0, 0)).toThrow("Tensor.select: the axis is empty: axis 0 of the shape [0] has no element to select.");
  });

  test("no view of a disposed tensor", () => {
    const x = Tensor.zeros([2, 2], { device });
    x.dispose();
    for (const view of [() => x.slice(0, 0), () => x.select(0, 0), () => x.reshape([4]), () => x.transpose(0, 1), () => x.contiguous()]) {
      expect(view).toThrow(RopeDisposedError);
    }
  });
});

function replaced(old: Tensor, next: Tensor): Tensor {
  old.dispose();
  return next;
}
