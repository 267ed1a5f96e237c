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

// q 1 x 1 x 32 x 128, k 1 x 1 x 8 x 128, bfloat16 on cpu
console.log(`q ${qRotated.shape.join(" x ")}, k ${kRotated.shape.join(" x ")}, ${qRotated.dtype} on ${qRotated.device.name}`);
qRotated.dispose();
kRotated.dispose();
