// rope_rotate on CUDA: which kernel, of what shape. The kernel is in rotate_kernel.cuh.
#include "positions.cuh"

namespace rope {

// Nothing to rotate, but an indptr to look at.
__global__ void check_indptr_kernel(const __grid_constant__ Indices indptr, int64_t tokens, CudaMailbox* mailbox) {
  report_indptr(indptr, tokens, mailbox);
}

}  // namespace rope

// The rest is the host's, and need not be read again for each architecture.
#if !defined(__CUDA_ARCH__)
#include <algorithm>

#include "../core/dtypes.h"
#include "../core/status.h"
#include "angle_table.h"
#include "rotate.h"
#include "rotate_launch.h"

namespace rope {
namespace {

RotateKernel kernel_for(int dtype, const RotateForm& form) {
  switch (dtype) {
    case ROPE_FLOAT64: return rotate_float64(form);
    case ROPE_FLOAT32: return rotate_float32(form);
    case ROPE_FLOAT16: return rotate_float16(form);
    default: return rotate_bfloat16(form);
  }
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether every chunk of every row lies on 16 bytes.
bool is_wide(const RotateParams& p) {
  const int64_t size = dtype_size(p.dtype), n = kChunkBytes / size;
  if (size == 8) return false;
  int64_t odd = (p.frequencies->pairs | p.rotary_offset | p.head_dim) % n;
  for (const RotateTensor* t : {&p.q, &p.k}) {
    if (t->heads == 0) continue;
    odd |= (t->in_token | t->in_head | t->out_token | t->out_head) % n;
    if (p.grid.batch > 1) odd |= (t->in_batch | t->out_batch) % n;
    odd |= static_cast<int64_t>((reinterpret_cast<uintptr_t>(t->in) | reinterpret_cast<uintptr_t>(t->out)) % kChunkBytes);
  }
  return odd == 0;
}

struct Shape {
  int rows;    // of a thread
  int heads;   // side by side in a block
  int tokens;  // of a block
};

// By the rows there are for each multiprocessor. Few: as many threads as can be, a row each. More: two, so that cos and sin serve more, and no
// more than two, so that registers hold many blocks. The numbers are measured: docs/performance.md.
Shape shape_for(int64_t lanes, int64_t heads, int64_t tokens, int multiprocessors) {
  constexpr int64_t kThreadsWanted = 192, kRowsForTwo = 75;
  const int64_t rows = heads > 1 && tokens * heads >= kRowsForTwo * multiprocessors ? 2 : 1;
  int64_t side_by_side = ceil_div(heads, rows);
  side_by_side = ceil_div(side_by_side, ceil_div(side_by_side * lanes, std::max(lanes, kThreadsWanted)));
  int64_t together = 1;
  while (side_by_side * lanes * together * 2 <= kThreadsWanted && tokens >= 8 * multiprocessors * together) together *= 2;
  return {static_cast<int>(rows), static_cast<int>(side_by_side), static_cast<int>(together)};
}

RotateSide side_of(const RotateTensor& t, int64_t size) {
  return {t.in, t.out, t.in_batch * size, t.in_token * size, t.in_head * size, t.out_batch * size, t.out_token * size, t.out_head * size};
}

void check_limits(const RotateParams& p, int64_t heads) {
  constexpr int64_t kMaxHeads = 65535, kMaxHeadDim = int64_t{1} << 26;  // a grid's second and third dimension end at 65535
  if (heads > kMaxHeads) {
    fail(ROPE_ARGUMENT, "q", text("a tensor of at most %lld heads, with k's, on CUDA", static_cast<long long>(kMaxHeads)),
         text("%lld heads", static_cast<long long>(heads)));
  }
  if (p.head_dim > kMaxHeadDim) {
    fail(ROPE_ARGUMENT, "q", text("a tensor of at most %lld channels a head on CUDA", static_cast<long long>(kMaxHeadDim)),
         text("%lld", static_cast<long long>(p.head_dim)));
  }
}

void launch_rotation(const RotateParams& p, const CudaLaunch& launch) {
  const Frequencies& f = *p.frequencies;
  const int64_t tokens = p.grid.batch * p.grid.tokens, heads = p.q.heads + p.k.heads;
  check_limits(p, heads);
  const bool moves = p.pairing == ROPE_INTERLEAVED_TO_HALF;
  const Order in = p.pairing == ROPE_HALF || (moves && p.inverse) ? Order::halves : Order::interleaved;
  const Order out = p.pairing == ROPE_HALF || (moves && !p.inverse) ? Order::halves : Order::interleaved;
  const bool wide = is_wide(p);
  const int64_t size = dtype_size(p.dtype), n = wide ? kChunkBytes / size : 1;
  const bool copies = (p.q.heads > 0 && !p.q.in_place) || (p.k.heads > 0 && !p.k.in_place);

  RotateKernelParams k;
  set_angle_params(&k.angles, p.positions, tokens, "q", p.frequencies, p.hf, p.backward, launch);
  k.q = side_of(p.q, size);
  k.k = side_of(p.k, size);
  k.batch = static_cast<uint32_t>(p.grid.batch);
  k.tokens = static_cast<uint32_t>(p.grid.tokens);
  k.q_heads = static_cast<int32_t>(p.q.heads);
  k.heads = static_cast<int32_t>(heads);
  k.turning = static_cast<int32_t>(f.pairs / n);
  k.passing = copies ? static_cast<int32_t>((p.head_dim - 2 * f.pairs) / n) : 0;
  k.rotary_offset = static_cast<int32_t>(p.rotary_offset);
  k.pairs = static_cast<int32_t>(f.pairs);
  k.q_in_place = p.q.in_place;
  k.k_in_place = p.k.in_place;
  k.in_interleaved = in == Order::interleaved;
  k.out_interleaved = out == Order::interleaved;
  k.head_rows = f.heads > 0;

  const int64_t farthest = std::max({k.q.in_head, k.q.out_head, k.k.in_head, k.k.out_head});
  const bool plain = f.axes == 1 && f.heads == 0 && !k.angles.fractional && k.angles.still_at == 0 && farthest < int64_t{1} << 32;
  const int64_t lanes = k.turning + ceil_div(k.passing, 2);
  const int64_t block_lanes = std::min<int64_t>(lanes, wide ? kWideThreads : kNarrowThreads);
  if (moves && (p.q.in_place || p.k.in_place) && lanes > block_lanes) {
    fail(ROPE_ARGUMENT, "pairing",
         text("one that keeps its order where q or k is rotated in place and a head has more than %lld channels",
              static_cast<long long>(2 * block_lanes * n)),
         text("interleaved_to_half with %lld", static_cast<long long>(2 * lanes * n)),
         "A block of the GPU holds no such head; use an output.");
  }
  Shape s = f.heads > 0 ? Shape{1, 1, 1} : shape_for(block_lanes, heads, tokens, launch.multiprocessors);
  const Where where = !plain ? Where::any : p.positions.ids != nullptr ? Where::ids : Where::derived;
  if (!wide || (where == Where::any && in != out)) s.rows = 1;
  const int64_t grid_x = ceil_div(tokens, s.tokens), grid_y = ceil_div(heads, s.rows * s.heads), grid_z = ceil_div(lanes, block_lanes);
  const int64_t threads = block_lanes * s.heads * s.tokens;
  // With derived places and two rows the rows set out late: the L2 fetches them meanwhile, in every block.
  k.prefetching = where == Where::derived && s.rows == 2
                      ? UINT32_MAX
                      : static_cast<uint32_t>(std::max<int64_t>(1, 1024 * launch.multiprocessors / (grid_y * grid_z * threads)));

  KernelShape shape;
  shape.grid = dim3(static_cast<unsigned>(grid_x), static_cast<unsigned>(grid_y), static_cast<unsigned>(grid_z));
  shape.block = dim3(static_cast<unsigned>(block_lanes), static_cast<unsigned>(s.heads), static_cast<unsigned>(s.tokens));
  shape.shared = static_cast<size_t>(2 * block_lanes * n * s.tokens) * (p.dtype == ROPE_FLOAT64 ? 8 : 4);
  shape.early = true;
  launch_kernel("rotate_kernel", kernel_for(p.dtype, {wide, where, s.rows, in, out}), shape, launch, k);
}

}  // namespace

void rotate_cuda(const RotateParams& p, const CudaLaunch& launch) {
  if (p.q.heads + p.k.heads == 0 || p.grid.batch == 0 || p.grid.tokens == 0) {
    if (p.positions.indptr.data == nullptr) return;
    return launch_kernel("check_indptr_kernel", check_indptr_kernel, {1, 1}, launch, p.positions.indptr, p.grid.tokens, launch.mailbox);
  }
  if (p.frequencies->heads == 0 || p.q.heads == 0 || p.k.heads == 0) return launch_rotation(p, launch);
  // With frequencies for each head a block has one head, of q or of k. A fault is met by both and reported by the first.
  RotateParams q = p, k = p;
  q.k = k.q = {};
  CudaLaunch silent = launch;
  silent.mailbox = nullptr;
  launch_rotation(q, launch);
  launch_rotation(k, silent);
}

}  // namespace rope
#endif
