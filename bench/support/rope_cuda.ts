// bench/rope.ts on a GPU: the time of a rotation over that of a device-to-device copy of the same bytes.
// `after a copy` has a copy ahead of each rotation, whose own time is taken off: what a rotation costs between other work, which cannot start it early.
import { type Angles, type Device, type DType, type Pairing, RotaryEmbedding, Tensor } from "../../mod.ts";
import { buffersFor, type CudaTiming, measure } from "./cuda_timing.ts";

/** What is rotated. Out of place, positions by ids, all channels, q and k contiguous where nothing is said. */
interface Form {
  readonly name: string;
  readonly dtype?: DType;
  readonly heads?: readonly [number, number];
  readonly dim?: number;
  readonly rotaryDim?: number;
  readonly pairing?: Pairing;
  readonly angles?: Angles;
  readonly inplace?: true;
  readonly llama3?: true;
  readonly indptr?: true;
  readonly packed?: true;
  readonly alone?: true;
}

const forms: readonly Form[] = [
  { name: "out of place, half" },
  { name: "in place, half", inplace: true },
  { name: "interleaved", pairing: "interleaved" },
  { name: "llama3 rule", llama3: true },
  { name: "indptr, one request", indptr: true },
  { name: "hf angles", angles: "hf" },
  { name: "float16", dtype: "float16" },
  { name: "float32", dtype: "float32" },
  { name: "head_dim 64", dim: 64 },
  { name: "head_dim 96", dim: 96 },
  { name: "head_dim 192", dim: 192 },
  { name: "head_dim 256", dim: 256 },
  { name: "heads 8/1", heads: [8, 1] },
  { name: "heads 64/8", heads: [64, 8] },
  { name: "heads 16/16", heads: [16, 16] },
  { name: "64 of 128 channels", rotaryDim: 64 },
  { name: "packed qkv", packed: true },
  { name: "interleaved_to_half", pairing: "interleaved_to_half" },
  { name: "after a copy", alone: true },
];

/** The names of what is measured. */
export const formNames: readonly string[] = forms.map((form) => form.name);
/** The numbers of tokens that are measured unless said otherwise. */
export const tokenCounts: readonly number[] = [1, 8, 64, 256, 1024, 2048, 8192, 32768, 131072];

/** A form at a number of tokens. */
export interface CudaRow extends CudaTiming {
  readonly form: string;
  readonly tokens: number;
}

const llama3 = { ropeType: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositionEmbeddings: 8192 } as const;

/** Measures a form at a number of tokens; undefined where it does not fit the GPU's memory. */
export async function measureCuda(device: Device, name: string, tokens: number, rounds: number): Promise<CudaRow | undefined> {
  const form = forms.find((candidate) => candidate.name === name);
  if (form === undefined) throw new Error(`no form ${name}`);
  const { dtype = "bfloat16", heads: [hq, hk] = [32, 8], dim = 128, pairing = "half", angles = "exact" } = form;
  const size = dtype === "float32" ? 4 : 2;
  const rows = tokens * (hq + hk) * dim; // elements that are rotated
  const bytes = 2 * rows * size;
  const sourceRows = form.packed === true ? tokens * (hq + 2 * hk) * dim : rows;
  const align = (elements: number): number => Math.ceil(elements / 128) * 128;
  const buffers = buffersFor(rows * size);
  if (buffers * (align(rows) + align(sourceRows)) * size > 0.9 * device.info.memoryBytes) return undefined;

  using sources = Tensor.random([buffers, align(sourceRows)], { dtype, device });
  using targets = Tensor.zeros([buffers, align(rows)], { dtype, device });
  const width = Math.max(tokens, 32);
  const ids = Int32Array.from({ length: buffers * width }, (_, i) => 1000 + 7 * Math.floor(i / width) + i % width);
  using positions = Tensor.from(ids, [buffers, width], { device });
  using indptrs = Tensor.from(Int32Array.from({ length: buffers * 32 }, (_, i) => i % 32 === 1 ? tokens : 0), [buffers, 32], { device });
  using rope = new RotaryEmbedding({
    ...{ dim, base: 5e5, rotaryDim: form.rotaryDim ?? dim, pairing, angles, device },
    ...(form.llama3 === true ? { scaling: llama3 } : {}),
  });

  const part = (memory: Tensor, r: number, start: number, end: number, shape: number[], views: DisposableStack): Tensor => {
    const row = views.use(memory.select(0, r));
    return views.use(views.use(row.slice(0, start, end)).reshape(shape));
  };
  const copy = (r: number): void => {
    using views = new DisposableStack();
    part(targets, r, 0, rows, [rows], views).copyFrom(part(sources, r, 0, rows, [rows], views));
  };
  const rotate = (r: number): void => {
    using views = new DisposableStack();
    const split = tokens * hq * dim;
    const qk = (memory: Tensor): [Tensor, Tensor] => [
      part(memory, r, 0, split, [tokens, hq, dim], views),
      part(memory, r, split, rows, [tokens, hk, dim], views),
    ];
    const slices = (): [Tensor, Tensor] => {
      const qkv = part(sources, r, 0, sourceRows, [tokens, hq + 2 * hk, dim], views);
      return [views.use(qkv.slice(1, 0, hq)), views.use(qkv.slice(1, hq, hq + hk))];
    };
    const [q, k] = form.packed === true ? slices() : qk(sources);
    const where = form.indptr === true
      ? { indptr: part(indptrs, r, 0, 2, [2], views), offsets: part(positions, r, 0, 1, [1], views) }
      : { positions: part(positions, r, 0, tokens, [tokens], views) };
    if (form.inplace === true) rope.forwardInplace(q, k, where);
    else rope.forward(q, k, { ...where, out: qk(targets) });
  };
  const timing = await measure(device, { bytes, buffers, copy, work: rotate, afterCopy: form.alone === true }, rounds);
  return { form: name, tokens, ...timing };
}
