// More elements than 2^31: offsets of 64 bits all the way. The strided case touches a few pages of a sparse block; the full one needs 4.3 GB
// and runs where twice that is free.
import { freemem } from "node:os";
import { describe, expect, test } from "bun:test";
import { type Device, RotaryEmbedding, Tensor } from "../../mod.ts";
import { bytesOf, devices, firstDifference, open, samples, typed } from "./support.ts";

/** Bytes that a test may take: what is free, or half of all where Deno must not ask. */
function freeBytes(device: Device): number {
  try {
    return freemem();
  } catch {
    return device.info.memoryBytes / 2;
  }
}

describe.each(devices)("large tensors on %s", (name) => {
  const device = open(name);
  const dim = 64;

  test("strides that reach beyond 2^32 elements", () => {
    using rope = new RotaryEmbedding({ dim, device });
    // 5 rows of 2^30 elements, of which each token uses one head: only what is touched takes memory.
    using base = Tensor.empty([5, 2 ** 30], { dtype: "float16", device });
    using rows = base.slice(1, 2 ** 30 - 3 * dim, 2 ** 30 - dim);
    using x = rows.reshape([5, 2, dim]);
    const numbers = samples(5 * 2 * dim, "float16", 1);
    x.write(typed(numbers, "float16"));
    using dense = x.contiguous();
    using want = rope.rotate(dense, { offset: 100 });
    rope.forwardInplace(x, null, { offset: 100 });
    expect(firstDifference(bytesOf(x), bytesOf(want))).toBe(-1);
    using flat = rows.slice(0, 0);
    using back = rope.rotate(flat, { offset: 100, inverse: true, headDim: dim });
    expect(back.shape).toEqual([5, 2 * dim]);
  });

  // 2^25 + 3 tokens of one head: 2^31 + 192 elements.
  const tokens = 2 ** 25 + 3;
  test.skipIf(freeBytes(device) < 2 * tokens * dim * 2)("more than 2^31 elements, all of them", () => {
    using rope = new RotaryEmbedding({ dim, device });
    using x = Tensor.empty([tokens, 1, dim], { dtype: "float16", device });
    const row = typed(samples(dim, "float16", 1), "float16");
    using first = x.slice(0, 0, 1);
    first.write(row);
    for (let done = 1; done < tokens; done *= 2) {
      const count = Math.min(done, tokens - done);
      using from = x.slice(0, 0, count);
      using to = x.slice(0, done, done + count);
      to.copyFrom(from);
    }
    rope.forwardInplace(x, null);
    using alone = Tensor.empty([1, 1, dim], { dtype: "float16", device });
    for (const token of [0, 1, 12345, 2 ** 24 + 1, 2 ** 25 - 1, 2 ** 25, 2 ** 25 + 1, tokens - 1]) {
      alone.write(row);
      rope.forwardInplace(alone, null, { offset: token });
      using got = x.slice(0, token, token + 1);
      if (firstDifference(bytesOf(got), bytesOf(alone)) !== -1) throw new Error(`token ${token} is wrong`);
    }
  }, 300_000);
});
