// A batch of requests of different lengths, as a server has them: rotated where a projection left q, k and v side by side.
//   bun examples/packed_qkv.ts
//   deno run --allow-ffi --allow-read examples/packed_qkv.ts
// deno-lint-ignore-file no-console
import { Device, RotaryEmbedding, Tensor } from "@librope/rope";

const device = Device.open();
using rope = new RotaryEmbedding({ dim: 128, base: 1_000_000, device });

// Six tokens of three requests: four that begin, one at its 1000th token, one at its 31st. 32 heads of q, 8 of k, 8 of v.
const indptr = [0, 4, 5, 6];
const offsets = [0, 1000, 31];
using qkv = Tensor.random([6, 48, 128], { dtype: "float16", device });

// Views: no memory is copied here nor below.
using q = qkv.slice(1, 0, 32);
using k = qkv.slice(1, 32, 40);
const before = device.memory().bytesInUse;
rope.forwardInplace(q, k, { indptr, offsets });
console.log(`rotated ${q.shape.join(" x ")} and ${k.shape.join(" x ")} in place, ${device.memory().bytesInUse - before} bytes more in use`);

// The same rotation backwards gives the queries and keys as they were.
rope.forwardInplace(q, k, { indptr, offsets, inverse: true });
