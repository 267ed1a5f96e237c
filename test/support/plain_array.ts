// An array of numbers whose views are functions on indices, with no strides anywhere: what views of Tensor are compared with.

/** A shape, and what stands at each index. */
export interface PlainArray {
  readonly shape: readonly number[];
  readonly at: (index: readonly number[]) => number;
}

/** 0, 1, 2, ... in row-major order. */
export function plainArange(shape: readonly number[]): PlainArray {
  return { shape, at: (index) => index.reduce((place, i, axis) => place * (shape[axis] ?? 0) + i, 0) };
}

/** Indices of a shape in row-major order. */
export function* indices(shape: readonly number[]): Generator<number[]> {
  const size = shape.reduce((product, length) => product * length, 1);
  for (let place = 0; place < size; place++) yield indexOf(shape, place);
}

function indexOf(shape: readonly number[], place: number): number[] {
  const index: number[] = [];
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const length = shape[axis] ?? 1;
    index.unshift(place % length);
    place = Math.floor(place / length);
  }
  return index;
}

/** The elements in row-major order. */
export function flat(array: PlainArray): number[] {
  return [...indices(array.shape)].map(array.at);
}

/** Elements start to end of an axis. */
export function plainSlice(array: PlainArray, axis: number, start: number, end: number): PlainArray {
  return {
    shape: array.shape.with(axis, end - start),
    at: (index) => array.at(index.map((i, at) => at === axis ? i + start : i)),
  };
}

/** One element of an axis. */
export function plainSelect(array: PlainArray, axis: number, place: number): PlainArray {
  return { shape: array.shape.toSpliced(axis, 1), at: (index) => array.at(index.toSpliced(axis, 0, place)) };
}

/** Two axes exchanged. */
export function plainTranspose(array: PlainArray, a: number, b: number): PlainArray {
  const swap = (list: readonly number[]): number[] => list.map((own, at) => at === a ? list[b] ?? 0 : at === b ? list[a] ?? 0 : own);
  return { shape: swap(array.shape), at: (index) => array.at(swap(index)) };
}

/** Another shape over the same elements in the same order. */
export function plainReshape(array: PlainArray, shape: readonly number[]): PlainArray {
  const elements = flat(array);
  const place = plainArange(shape);
  return { shape, at: (index) => elements[place.at(index)] ?? NaN };
}
