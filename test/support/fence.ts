// Tensors inside poisoned memory: every element around the tensor, and in the gaps between its own, must still be there afterwards.
import { expect } from "bun:test";
import { type Device, type DType, Tensor } from "../../mod.ts";
import type { Random } from "./random.ts";

/** A tensor inside a larger one. */
export interface Fenced<D extends DType> {
  readonly tensor: Tensor<D>;
  /** Fails where anything outside the tensor's elements has changed since. */
  intact(): void;
  dispose(): void;
  [Symbol.dispose](): void;
}

/** A strided tensor of a shape, its memory filled with random bits, with gaps along every axis and in a random order of the axes in memory. */
export function fenced<D extends DType>(random: Random, device: Device, dtype: D, shape: readonly number[]): Fenced<D> {
  const rank = shape.length;
  const order = shape.map((_, axis) => axis);
  for (let i = rank - 1; i > 0; i--) exchange(order, i, random.integer(0, i));
  // The base's axis i lies in memory where the tensor's axis order[i] is.
  const starts = order.map(() => random.integer(0, 2));
  const baseShape = order.map((axis, i) => (starts[i] ?? 0) + (shape[axis] ?? 0) + random.integer(0, 2));
  const lead = random.integer(1, 9);
  const inside = baseShape.reduce((product, length) => product * length, 1);
  const base = poisoned(random, device, dtype, [lead + inside + random.integer(1, 9)]);
  let view = base.slice(0, lead, lead + inside);
  view = replaced(view, view.reshape(baseShape));
  for (let i = 0; i < rank; i++) view = replaced(view, view.slice(i, starts[i] ?? 0, (starts[i] ?? 0) + (shape[order[i] ?? 0] ?? 0)));
  for (let axis = 0; axis < rank; axis++) {
    const at = order.indexOf(axis);
    exchange(order, axis, at);
    view = replaced(view, view.transpose(axis, at));
  }
  expect(view.shape).toEqual([...shape]);
  const before = bytesOf(base);
  const dispose = (): void => {
    view.dispose();
    base.dispose();
  };
  return {
    tensor: view,
    intact: () => {
      const own = placesOf(view, base);
      const after = bytesOf(base);
      const size = base.byteLength / Math.max(base.size, 1);
      for (let i = 0; i < after.length; i++) {
        if (after[i] !== before[i] && !own.has(Math.floor(i / size))) {
          throw new Error(`element ${Math.floor(i / size)} of ${base.size} was overwritten`);
        }
      }
    },
    dispose,
    [Symbol.dispose]: dispose,
  };
}

/** A contiguous tensor of random bits. */
export function poisoned<D extends DType>(random: Random, device: Device, dtype: D, shape: readonly number[]): Tensor<D> {
  const tensor = Tensor.empty(shape, { dtype, device });
  const array = tensor.readBlocking();
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  for (let i = 0; i < bytes.length; i++) bytes[i] = random.integer(0, 255);
  return tensor.write(array);
}

/** The bits of a tensor's elements in row-major order. */
export function bytesOf(tensor: Tensor): Uint8Array {
  const array = tensor.readBlocking();
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

function placesOf(view: Tensor, base: Tensor): Set<number> {
  const places = new Set<number>();
  const first = (view.pointer - base.pointer) / (base.byteLength / Math.max(base.size, 1));
  const walk = (axis: number, place: number): void => {
    if (axis === view.shape.length) places.add(place);
    else for (let i = 0; i < (view.shape[axis] ?? 0); i++) walk(axis + 1, place + i * (view.strides[axis] ?? 0));
  };
  walk(0, first);
  return places;
}

function exchange(list: number[], a: number, b: number): void {
  const kept = list[a] ?? 0;
  list[a] = list[b] ?? 0;
  list[b] = kept;
}

function replaced<T extends { dispose(): void }>(old: T, next: T): T {
  old.dispose();
  return next;
}
