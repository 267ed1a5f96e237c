// The forms of views: pure arithmetic on shapes and strides, no memory touched and no native call.
import { argumentError, checkInteger, describe } from "../arguments.ts";
import { RopeArgumentError } from "../errors.ts";
import { enums } from "../native/layouts.ts";
import { checkAxis, denseGeometry, Geometry, notAShape, shapeText } from "./geometry.ts";

/** A view's form, and how many elements behind the base's first it begins. */
export interface View {
  readonly geometry: Geometry;
  readonly offset: number;
}

function changed(list: readonly number[], at: number, value: number): readonly number[] {
  const copy = list.slice();
  copy[at] = value;
  return copy;
}

/** An index into [0, length]; negative ones count from the end, as in Array.prototype.slice. */
function checkBound(argument: string, value: unknown, length: number): number {
  const bound = typeof value === "number" && Number.isInteger(value) ? value + (value < 0 ? length : 0) : NaN;
  if (bound >= 0 && bound <= length) return bound;
  throw argumentError("Tensor.slice", argument, `an integer from 0 to ${length} (negative ones count from the end)`, describe(value));
}

/** Elements start to end of one axis. */
export function sliceView(base: Geometry, axis: unknown, start: unknown, end: unknown): View {
  const along = checkAxis("Tensor.slice", "axis", axis, base.shape.length);
  const length = base.shape[along] ?? 0;
  const from = checkBound("start", start, length);
  const to = end === undefined ? length : checkBound("end", end, length);
  if (from > to) throw argumentError("Tensor.slice", "start", `at most end, which is ${to} here`, String(from));
  return {
    geometry: new Geometry(base.dtype, changed(base.shape, along, to - from), base.strides),
    offset: from === to ? 0 : from * (base.strides[along] ?? 0),
  };
}

/** One element of an axis, which is dropped. */
export function selectView(base: Geometry, axis: unknown, index: unknown): View {
  const along = checkAxis("Tensor.select", "axis", axis, base.shape.length);
  const length = base.shape[along] ?? 0;
  if (length === 0) {
    const message = `the axis is empty: axis ${along} of the shape ${shapeText(base.shape)} has no element to select`;
    throw new RopeArgumentError({ operation: "Tensor.select", argument: "index", message });
  }
  const from = checkInteger("Tensor.select", "index", index, -length, length - 1);
  const keep = (_: number, at: number) => at !== along;
  const shape = base.shape.filter(keep);
  const strides = base.strides.filter(keep);
  const geometry = new Geometry(base.dtype, shape, strides);
  return { geometry, offset: geometry.size === 0 ? 0 : (from < 0 ? from + length : from) * (base.strides[along] ?? 0) };
}

/** Two axes exchanged. */
export function transposeView(base: Geometry, a: unknown, b: unknown): View {
  const first = checkAxis("Tensor.transpose", "a", a, base.shape.length);
  const second = checkAxis("Tensor.transpose", "b", b, base.shape.length);
  const swap = (list: readonly number[]) => changed(changed(list, first, list[second] ?? 0), second, list[first] ?? 0);
  return { geometry: new Geometry(base.dtype, swap(base.shape), swap(base.strides)), offset: 0 };
}

/** The same elements, in the same order, in another shape. One -1 is inferred. */
export function reshapeView(base: Geometry, shape: unknown): View {
  const wanted = checkReshape(base, shape);
  if (base.isContiguous) return { geometry: denseGeometry(base.dtype, wanted), offset: 0 };
  const strides = regroup(base, wanted);
  if (strides === null) {
    throw argumentError(
      "Tensor.reshape",
      "shape",
      `one that the strides ${shapeText(base.strides)} of shape ${shapeText(base.shape)} allow without a copy`,
      shapeText(wanted),
      "Copy first: tensor.contiguous().reshape(...).",
    );
  }
  return { geometry: new Geometry(base.dtype, wanted, strides), offset: 0 };
}

function checkReshape(base: Geometry, value: unknown): readonly number[] {
  const operation = "Tensor.reshape";
  if (!Array.isArray(value)) throw notAShape(operation, "an array of counts, one of which may be -1", value);
  if (value.length > enums.MAX_RANK) {
    throw argumentError(operation, "shape", `an array of 0 to ${enums.MAX_RANK} counts`, `${value.length} of them`);
  }
  const shape: number[] = [];
  let known = 1;
  let inferred = -1;
  for (let axis = 0; axis < value.length; axis++) {
    const length = checkInteger(operation, `shape[${axis}]`, value[axis], -1);
    shape.push(length);
    if (length !== -1) known *= length;
    else if (inferred === -1) inferred = axis;
    else throw argumentError(operation, "shape", "of at most one -1", shapeText(value));
  }
  const fits = inferred === -1 ? known === base.size : known > 0 && base.size % known === 0;
  if (!fits) throw argumentError(operation, "shape", `of the ${base.size} elements of ${shapeText(base.shape)}`, shapeText(shape));
  if (inferred !== -1) shape[inferred] = base.size / known;
  return shape;
}

/**
 * Strides of `shape` over the elements of a strided base of the same size, or null where there are none. Axes of both are taken in groups
 * of equal product; within a group the base's axes must lie evenly, as one long axis would.
 */
function regroup(base: Geometry, shape: readonly number[]): number[] | null {
  const lengths: number[] = [];
  const steps: number[] = [];
  for (let axis = 0; axis < base.shape.length; axis++) {
    if (base.shape[axis] === 1) continue; // its stride is never taken
    lengths.push(base.shape[axis] ?? 1);
    steps.push(base.strides[axis] ?? 0);
  }
  const strides = new Array<number>(shape.length).fill(1);
  let from = 0;
  let to = 0;
  while (from < lengths.length) {
    let end = from + 1;
    let stop = to + 1;
    let have = lengths[from] ?? 1;
    let want = shape[to] ?? 1;
    while (have !== want) {
      if (have < want) have *= lengths[end++] ?? 1;
      else want *= shape[stop++] ?? 1;
    }
    for (let axis = from; axis < end - 1; axis++) {
      if (steps[axis] !== (steps[axis + 1] ?? 0) * (lengths[axis + 1] ?? 1)) return null;
    }
    let step = steps[end - 1] ?? 0;
    for (let axis = stop - 1; axis >= to; axis--) {
      strides[axis] = step;
      step *= shape[axis] ?? 1;
    }
    from = end;
    to = stop;
  }
  return strides;
}
