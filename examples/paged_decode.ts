// Decoding with a paged cache, as a server does it: two prompts of different lengths in one call, then a token of each at a time. A layer's
// norm, rotation and append are one call; at the end the cache is read back and compared with what the single steps give.
//   bun examples/paged_decode.ts
//   deno run --allow-ffi --allow-read examples/paged_decode.ts
// deno-lint-ignore-file no-console
import process from "node:process";
import { appendPagedKVCache, getBatchIndicesPositions, PagedKVCache, RotaryEmbedding, Tensor } from "@librope/rope";

// A small layer of Qwen3's kind: 8 query heads, 2 of keys and values, each head of q and k normed before it is rotated.
const [heads, kvHeads, dim, dtype] = [8, 2, 64, "bfloat16"] as const;
const [numPages, pageSize] = [12, 8] as const;
const prompts = [21, 9];
const steps = 12;

using rope = new RotaryEmbedding({ dim, base: 1_000_000 });
const { device } = rope;
using qWeight = Tensor.random([dim], { dtype, seed: 1, device });
using kWeight = Tensor.random([dim], { dtype, seed: 2, device });
const qNorm = { weight: qWeight, eps: 1e-6 };
const kNorm = { weight: kWeight, eps: 1e-6 };
using cache = new PagedKVCache({ numPages, pageSize, numKVHeads: kvHeads, headDim: dim, dtype, device });
using stepwise = new PagedKVCache({ numPages, pageSize, numKVHeads: kvHeads, headDim: dim, dtype, device });

/** What the server knows of a request: how long it is and which pages it has. Its keys as they came are kept for the comparison. */
interface Request {
  length: number;
  readonly pages: number[];
  readonly keys: Tensor[];
}
const requests: Request[] = prompts.map(() => ({ length: 0, pages: [], keys: [] }));
const freePages = Array.from({ length: numPages }, (_, page) => page);

function takePage(): number {
  const page = freePages.shift();
  if (page === undefined) throw new Error(`the cache's ${numPages} pages are full`);
  return page;
}

let calls = 0;
let sameQueries = true;

/** A layer for some more tokens of each request, which lie end to end: indptr says whose are whose. */
function layer(tokens: readonly number[]): void {
  const indptr = [0];
  requests.forEach((request, i) => {
    request.length += tokens[i] ?? 0;
    while (request.pages.length * pageSize < request.length) request.pages.push(takePage());
    indptr.push((indptr[i] ?? 0) + (tokens[i] ?? 0));
  });
  const nnz = indptr[requests.length] ?? 0;

  // A projection would give this: q, k and v side by side. What is sliced is a view, no copy.
  using qkv = Tensor.random([nnz, heads + 2 * kvHeads, dim], { dtype, seed: 100 + calls++, device });
  using q = qkv.slice(1, 0, heads);
  using k = qkv.slice(1, heads, heads + kvHeads);
  using v = qkv.slice(1, heads + kvHeads);

  // Where each token goes: its request, its place in it, and the pages of all requests one after another.
  const { batchIndices, positions } = getBatchIndicesPositions(indptr, requests.map(({ length }) => length), nnz);
  const pageIndptr = [0];
  for (const { pages } of requests) pageIndptr.push((pageIndptr.at(-1) ?? 0) + pages.length);
  const where = { indptr: pageIndptr, indices: requests.flatMap(({ pages }) => pages), batchIndices, positions };
  using rotated = rope.append(q, k, v, cache, where, { qNorm, kNorm });

  // The same in two calls, by way of a tensor of rotated keys.
  const [qRotated, kRotated] = rope.forward(q, k, { positions, qNorm, kNorm });
  appendPagedKVCache(kRotated, v, stepwise, where);
  sameQueries &&= same(rotated, qRotated);

  requests.forEach((request, i) => {
    using own = k.slice(0, indptr[i] ?? 0, indptr[i + 1]);
    request.keys.push(own.clone());
  });
  for (const tensor of [batchIndices, positions, qRotated, kRotated]) tensor.dispose();
}

/** Whether two tensors of bfloat16 hold the same bits. */
function same(a: Tensor, b: Tensor): boolean {
  const [x, y] = [a.readBlocking(), b.readBlocking()];
  return x.length === y.length && x.every((bits, i) => bits === y[i]);
}

/** The keys of a request, [length, kvHeads, dim], page by page as its table says. */
function readBack({ length, pages }: Request): Tensor {
  const views = pages.map((page, i) => cache.k.select(0, page).slice(0, 0, Math.min(pageSize, length - i * pageSize)));
  const keys = Tensor.cat(views, 0);
  for (const view of views) view.dispose();
  return keys;
}

layer(prompts);
for (let step = 0; step < steps; ++step) layer(requests.map(() => 1));

console.log(
  `${requests.length} requests on ${device.name}: prompts of ${prompts.join(" and ")} tokens, then ${steps} steps; ${calls} calls`,
);
requests.forEach(({ length, pages }, i) => console.log(`request ${i}: ${length} tokens in pages ${pages.join(", ")}`));

const checks: [string, boolean][] = [
  ["queries of append() are those of forward()", sameQueries],
  ["keys in the cache are those of forward(), then appendPagedKVCache()", same(cache.k, stepwise.k)],
  ["values too", same(cache.v, stepwise.v)],
];
requests.forEach((request, i) => {
  using all = Tensor.cat(request.keys, 0);
  using atOnce = rope.rotate(all, { qNorm: kNorm }); // its whole sequence in one call
  using cached = readBack(request);
  checks.push([`keys of request ${i}, read back page by page, are those of its whole sequence in one call`, same(cached, atOnce)]);
  for (const tensor of request.keys) tensor.dispose();
});
for (const [what, ok] of checks) console.log(`${ok ? "ok    " : "FAILED"}  ${what}, bit for bit`);
process.exitCode = checks.every(([, ok]) => ok) ? 0 : 1;
