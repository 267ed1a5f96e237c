// The quick start of the README.
//   bun examples/quickstart.ts
//   deno run --allow-ffi --allow-read examples/quickstart.ts
// deno-lint-ignore-file no-console
import { RotaryEmbedding, Tensor } from "@librope/rope";

using rope = new RotaryEmbedding({ dim: 128, base: 500_000 });

// A prompt of 16 tokens: [batch, sequence, heads, head dimension], in the model's own dtype.
using q = Tensor.random([1, 16, 32, 128], { dtype: "bfloat16" });
using k = Tensor.random([1, 16, 8, 128], { dtype: "bfloat16" });
rope.forwardInplace(q, k);

// The next token stands at position 16. forward() leaves its inputs and gives new tensors; dispose() returns their memory to the pool.
using qNext = Tensor.random([1, 1, 32, 128], { dtype: "bfloat16" });
using kNext = Tensor.random([1, 1, 8, 128], { dtype: "bfloat16" });
const [qRotated, kRotated] = rope.forward(qNext, kNext, { offset: 16 });

// On the CPU an array of your own is rotated where it lies: no copy. Pair 0 of a head turns by one radian per position.
const mine = new Float32Array(128);
mine[0] = 1;
using x = Tensor.from(mine, [1, 1, 128], { device: "cpu" });
rope.forwardInplace(x, null, { positions: [3] });

console.log(`q ${qRotated.shape.join(" x ")}, k ${kRotated.shape.join(" x ")}, ${qRotated.dtype} on ${qRotated.device.name}`);
console.log(`[1, 0] turned by 3 radians: [${mine[0].toFixed(4)}, ${mine[64]?.toFixed(4)}]`);
qRotated.dispose();
kRotated.dispose();
