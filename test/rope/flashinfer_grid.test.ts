// FlashInfer's grids test_rope (4608 combinations) and test_rope_pos_ids (18432), all of them: q and k are slices of one packed qkv in float16.
//
// A token's result depends on its position and heads alone, so each group of combinations has one tile: every position it meets, rotated once and
// compared element by element with the float64 reference. Every combination must then reproduce the tile bit for bit in each of its requests, leave v
// and, out of place, q and k as they were. The largest batches (989 requests of 204 tokens) would move 4 TB through a CPU, so that calls here take as
// many whole requests as fit into `most` tokens; the last test runs each batch and length in full once. ROPE_FULL_GRID=1 cuts nothing.
import { Buffer } from "node:buffer";
import process from "node:process";
import { describe, expect, test } from "bun:test";
import {
  applyLlama31Rope,
  applyLlama31RopeInplace,
  applyLlama31RopePosIds,
  applyLlama31RopePosIdsInplace,
  applyRope,
  applyRopeInplace,
  applyRopePosIds,
  applyRopePosIdsInplace,
  type Device,
  Tensor,
} from "../../mod.ts";
import { referenceRope } from "../../src/testing.ts";
import { devices, open, samples, ulp } from "./support.ts";

const batches = [1, 19, 99, 989];
const lengths = [1, 4, 19, 204];
const queryHeads = [8, 16];
const keyHeads = 8;
const offsets = [0, 15, 99];
const dims = [64, 128, 256];
const parts = [0.25, 0.5, 0.75, 1];
const rules = ["llama", "llama31"] as const;
const most = process.env["ROPE_FULL_GRID"] === "1" ? Infinity : 204;

type Rule = typeof rules[number];
type Pairing = "half" | "interleaved";

interface Group {
  readonly dim: number;
  readonly rule: Rule;
  readonly rotaryDim: number;
  readonly pairing: Pairing;
  readonly offset: number;
}

/** The packed rows of one request with `heads` query heads: [length, heads + 2 * keyHeads, dim], q then k then v. */
function packed(q: Uint16Array, k: Uint16Array, v: Uint16Array, heads: number, length: number, dim: number): Uint16Array {
  const row = (heads + 2 * keyHeads) * dim;
  const out = new Uint16Array(length * row);
  for (let t = 0; t < length; ++t) {
    out.set(q.subarray(t * 16 * dim, (t * 16 + heads) * dim), t * row);
    out.set(k.subarray(t * keyHeads * dim, (t + 1) * keyHeads * dim), t * row + heads * dim);
    out.set(v.subarray(t * keyHeads * dim, (t + 1) * keyHeads * dim), t * row + (heads + keyHeads) * dim);
  }
  return out;
}

function bits(numbers: ArrayLike<number>): Uint16Array {
  return new Uint16Array(Float16Array.from(numbers).buffer);
}

function bytes(array: ArrayBufferView): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** Inputs of a head dimension, the same for every group: q has 16 heads, of which a combination with 8 takes the first. */
function inputs(dim: number): { q: Float64Array; k: Float64Array; qBits: Uint16Array; kBits: Uint16Array; vBits: Uint16Array } {
  const q = samples(204 * 16 * dim, "float16", dim), k = samples(204 * keyHeads * dim, "float16", dim + 1);
  return { q, k, qBits: bits(q), kBits: bits(k), vBits: bits(samples(204 * keyHeads * dim, "float16", dim + 2)) };
}

/** FlashInfer's frequencies in float64: ropeScale 1 and theta 1e4, or Llama 3.1's 8 and 5e5. */
function frequencies(rule: Rule, rotaryDim: number): Float64Array {
  return Float64Array.from({ length: rotaryDim / 2 }, (_, pair) => {
    if (rule === "llama") return 1e4 ** ((-2 * pair) / rotaryDim);
    const plain = 5e5 ** ((-2 * pair) / rotaryDim);
    const smooth = Math.min(Math.max(((8192 * plain) / (2 * Math.PI) - 1) / 3, 0), 1);
    return ((1 - smooth) * plain) / 8 + smooth * plain;
  });
}

/** Every position rotated once, checked against the reference: float16 within one ulp of the correctly rounded result plus the angle error. */
function tile(group: Group, input: ReturnType<typeof inputs>, device: Device): { q: Uint16Array; k: Uint16Array } {
  const { dim, rule, rotaryDim, pairing, offset } = group;
  const positions = Int32Array.from({ length: 204 }, (_, t) => offset + t);
  const rotate = rule === "llama" ? applyRopePosIds : applyLlama31RopePosIds;
  using q = Tensor.from(Float16Array.from(input.q), [204, 16, dim], { device });
  using k = Tensor.from(Float16Array.from(input.k), [204, keyHeads, dim], { device });
  const [qOut, kOut] = rotate(q, k, positions, { rotaryDim, pairing });
  const got = [qOut.readBlocking(), kOut.readBlocking()] as [Float16Array, Float16Array];
  qOut.dispose();
  kOut.dispose();
  [input.q, input.k].forEach((x, which) => {
    const heads = which === 0 ? 16 : keyHeads;
    const want = referenceRope(x, [204, heads, dim], { positions, rotaryDim, pairing, frequencies: frequencies(rule, rotaryDim) });
    const found = got[which] ?? new Float16Array();
    for (let i = 0; i < want.length; ++i) {
      const exact = want[i] ?? NaN;
      const off = Math.abs((found[i] ?? NaN) - Math.f16round(exact));
      if (off > 0 && !(off <= ulp(exact, "float16") + 4 * 2e-7)) throw new Error(`element ${i} is ${found[i]}, the reference ${exact}`);
    }
  });
  return { q: new Uint16Array(got[0].buffer), k: new Uint16Array(got[1].buffer) };
}

interface Combination {
  readonly batch: number;
  readonly length: number;
  readonly heads: number;
  readonly inplace: boolean;
  readonly ids: "int32" | "int64" | "indptr";
}

function call(group: Group, it: Combination, requests: number, q: Tensor, k: Tensor, device: Device): [Tensor, Tensor] | null {
  const { rule, rotaryDim, pairing, offset } = group;
  const options = { rotaryDim, pairing };
  const llama = rule === "llama";
  if (it.ids === "indptr") {
    using indptr = Tensor.arange(requests + 1, { step: it.length, device });
    using starts = Tensor.full([requests], offset, { dtype: "int32", device });
    const ragged = { ...options, indptr, offsets: starts };
    if (it.inplace) return (llama ? applyRopeInplace(q, k, ragged) : applyLlama31RopeInplace(q, k, ragged)) ?? null;
    return llama ? applyRope(q, k, ragged) : applyLlama31Rope(q, k, ragged);
  }
  using positions = Tensor.from(Array.from({ length: requests * it.length }, (_, i) => offset + i % it.length), [requests * it.length], {
    dtype: it.ids,
    device,
  });
  if (it.inplace) {
    return (llama ? applyRopePosIdsInplace(q, k, positions, options) : applyLlama31RopePosIdsInplace(q, k, positions, options)) ?? null;
  }
  return llama ? applyRopePosIds(q, k, positions, options) : applyLlama31RopePosIds(q, k, positions, options);
}

/** A packed qkv of `requests` equal requests. */
function requestsOf({ dim }: Group, { length, heads }: Combination, requests: number, device: Device): Tensor {
  return Tensor.empty([requests * length, heads + 2 * keyHeads, dim], { dtype: "float16", device });
}

function write(qkv: Tensor, request: Uint16Array): void {
  const length = request.length / ((qkv.shape[1] ?? 0) * (qkv.shape[2] ?? 0));
  for (let start = 0; start < (qkv.shape[0] ?? 0); start += length) {
    using one = qkv.slice(0, start, start + length);
    one.write(new Float16Array(request.buffer, request.byteOffset, request.length));
  }
}

/** Runs one combination on a packed qkv of `requests` requests and compares every byte. */
function run(group: Group, it: Combination, requests: number, qkv: Tensor, before: Uint16Array, after: Uint16Array, device: Device): void {
  const { dim } = group;
  const { length, heads } = it;
  const row = (heads + 2 * keyHeads) * dim;
  using q = qkv.slice(1, 0, heads);
  using k = qkv.slice(1, heads, heads + keyHeads);
  const out = call(group, it, requests, q, k, device);
  const fail = (what: string): never => {
    throw new Error(`${what} is wrong in ${JSON.stringify({ ...group, ...it, requests })}`);
  };
  const left = bytes(device.kind === "cpu" ? qkv.data : qkv.readBlocking());
  const expected = bytes(it.inplace ? after : before).subarray(0, 2 * length * row);
  for (let r = 0; r < requests; ++r) {
    if (Buffer.compare(left.subarray(2 * r * length * row, 2 * (r + 1) * length * row), expected) !== 0) fail("the packed qkv");
  }
  if (out === null) return;
  [0, heads].forEach((first, which) => {
    const result = out[which];
    if (result === undefined) return fail("the result");
    const width = (which === 0 ? heads : keyHeads) * dim;
    const got = bytes(device.kind === "cpu" ? result.data : result.readBlocking());
    const want = new Uint16Array(length * width);
    for (let t = 0; t < length; ++t) want.set(after.subarray(t * row + first * dim, t * row + first * dim + width), t * width);
    for (let r = 0; r < requests; ++r) {
      if (Buffer.compare(got.subarray(2 * r * length * width, 2 * (r + 1) * length * width), bytes(want)) !== 0) {
        fail(which === 0 ? "q" : "k");
      }
    }
    result.dispose();
  });
}

describe.each(devices)("FlashInfer's grids on %s", (name) => {
  const device = open(name);

  describe.each(dims.map((dim) => [dim] as const))("head_dim %d", (dim) => {
    const input = inputs(dim);

    test.each(rules.flatMap((rule) => parts.map((part) => [rule, part] as const)))("%s, %d of the channels", (rule, part) => {
      let ropeCombinations = 0;
      let posIdsCombinations = 0;
      for (const pairing of ["interleaved", "half"] as const) {
        for (const offset of offsets) {
          const group: Group = { dim, rule, rotaryDim: dim * part, pairing, offset };
          const rotated = tile(group, input, device);
          for (const heads of queryHeads) {
            const row = (heads + 2 * keyHeads) * dim;
            const before = packed(input.qBits, input.kBits, input.vBits, heads, 204, dim);
            const after = packed(rotated.q, rotated.k, input.vBits, heads, 204, dim);
            for (const length of lengths) {
              for (const batch of batches) {
                const requests = Math.min(batch, Math.max(1, Math.floor(most / length)));
                const shape = { batch, length, heads };
                using qkv = requestsOf(group, { ...shape, inplace: false, ids: "int32" }, requests, device);
                let fresh = false; // what is rotated in place must be written again
                for (const inplace of [false, true]) {
                  for (const ids of ["int32", "int64", "indptr"] as const) {
                    if (ids === "indptr" && pairing === "half") continue; // test_rope is interleaved only
                    if (!fresh) write(qkv, before.subarray(0, length * row));
                    run(group, { ...shape, inplace, ids }, requests, qkv, before, after, device);
                    fresh = !inplace;
                    ids === "indptr" ? ++ropeCombinations : ++posIdsCombinations;
                  }
                }
              }
            }
          }
        }
      }
      expect([ropeCombinations, posIdsCombinations]).toEqual([4608 / 24, 18432 / 24]);
    });
  });

  test("every batch and length in full", () => {
    const dim = 64;
    const input = inputs(dim);
    let turn = 0;
    for (const pairing of ["interleaved", "half"] as const) {
      const group: Group = { dim, rule: "llama31", rotaryDim: dim, pairing, offset: 99 };
      const rotated = tile(group, input, device);
      const before = packed(input.qBits, input.kBits, input.vBits, 8, 204, dim);
      const after = packed(rotated.q, rotated.k, input.vBits, 8, 204, dim);
      for (const length of lengths) {
        for (const batch of batches) {
          for (const inplace of [false, true]) {
            const ids = (["int32", "indptr", "int64"] as const)[turn++ % 3] ?? "int32";
            const it = { batch, length, heads: 8, inplace, ids };
            using qkv = requestsOf(group, it, batch, device);
            write(qkv, before.subarray(0, length * 24 * dim));
            run(group, it, batch, qkv, before, after, device);
          }
        }
      }
    }
  });
});
