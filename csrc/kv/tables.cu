// rope_seq_lens and rope_batch_indices on CUDA: a thread for each request, a thread for each token.
// Layout: blocks of 256 threads along one dimension, which go on by the size of the grid.
// Roles: all alike. Of batch_indices every block looks whether indptr is in order, its threads an entry each; then a thread finds the request
//   of its token by bisection, and looks after the length of the request of its number.
// Protocol: what is out of order or too long is not written and left in the mailbox, of indptr by the first thread of all.
#include "../device/ptx.cuh"
#include "../rope/positions.cuh"
#include "tables.h"

namespace rope {
namespace {

constexpr int kBlock = 256;
constexpr int64_t kBlocksPerMultiprocessor = 16;

KernelShape shape_for(int64_t count, const CudaLaunch& launch) {
  KernelShape shape;
  const int64_t blocks = (count + kBlock - 1) / kBlock, most = launch.multiprocessors * kBlocksPerMultiprocessor;
  shape.grid = static_cast<unsigned>(blocks < 1 ? 1 : blocks < most ? blocks : most);
  shape.block = kBlock;
  shape.early = true;
  return shape;
}

// ---- rope_seq_lens ------------------------------------------------------------------------------------------------------------------------

__global__ void __launch_bounds__(kBlock) seq_lens_kernel(const __grid_constant__ SeqLensParams p, CudaMailbox* mailbox) {
  ptx::griddepcontrol_wait();
  ptx::griddepcontrol_launch_dependents();
  const int64_t step = static_cast<int64_t>(gridDim.x) * kBlock;
  for (int64_t request = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x; request + 1 < p.table.indptr.count; request += step) {
    rope_fault fault{};
    int32_t length = 0;
    if (find_seq_len(p.table, request, &length, &fault)) {
      p.seq_lens[request * p.stride] = length;
    } else {
      report_fault(mailbox, CudaOperation::seq_lens, fault);
    }
  }
}

// ---- rope_batch_indices ---------------------------------------------------------------------------------------------------------------------

__device__ __noinline__ void report_disorder(const BatchIndicesParams& p, CudaMailbox* mailbox) {
  int64_t before = 0;
  for (int64_t i = 0; i < p.indptr.count; ++i) {
    const int64_t entry = load_index(p.indptr, i);
    if (entry < before || entry > p.tokens) {
      return report_fault(mailbox, CudaOperation::batch_indices, {ROPE_FAULT_INDPTR, 0, i > 0 ? i - 1 : 0, i, entry, p.tokens});
    }
    before = entry;
  }
}

// -1 if no request owns the token. indptr is in order.
__device__ __forceinline__ int64_t find_request(const Indices& indptr, int64_t token) {
  int64_t low = 0, high = indptr.count - 1;
  if (token < load_index(indptr, low) || token >= load_index(indptr, high)) return -1;
#pragma unroll 1
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (load_index(indptr, middle) <= token ? low : high) = middle;
  }
  return low;
}

__global__ void __launch_bounds__(kBlock) batch_indices_kernel(const __grid_constant__ BatchIndicesParams p, CudaMailbox* mailbox) {
  ptx::griddepcontrol_wait();
  ptx::griddepcontrol_launch_dependents();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x, step = static_cast<int64_t>(gridDim.x) * kBlock;
  const IndptrCheck check = begin_check(p.indptr, threadIdx.x);
  const bool disordered = __syncthreads_or(is_disordered(p.indptr, p.tokens, check, kBlock));
  if (disordered && first == 0) report_disorder(p, mailbox);
  rope_fault fault;
  for (int64_t request = first; !disordered && request + 1 < p.indptr.count; request += step) {
    const int64_t begin = load_index(p.indptr, request), end = load_index(p.indptr, request + 1);
    if (!check_length(request, begin, end, load_index(p.seq_lens, request), &fault)) {
      report_fault(mailbox, CudaOperation::batch_indices, fault);
    }
  }
  for (int64_t token = first; token < p.tokens; token += step) {
    const int64_t request = disordered ? find_sound_request(p.indptr, p.tokens, token) : find_request(p.indptr, token);
    if (request < 0 && disordered) continue;
    int64_t place = -1;
    if (request >= 0) {
      const int64_t begin = load_index(p.indptr, request), end = load_index(p.indptr, request + 1),
                    length = load_index(p.seq_lens, request);
      if (!check_length(request, begin, end, length, &fault)) continue;
      place = length - end + token;
    }
    p.batch_indices[token * p.batch_stride] = static_cast<int32_t>(request);
    p.places[token * p.place_stride] = static_cast<int32_t>(place);
  }
}

}  // namespace

void seq_lens_cuda(const SeqLensParams& p, const CudaLaunch& launch) {
  const int64_t requests = p.table.indptr.count - 1;
  if (requests == 0) return;
  launch_kernel("seq_lens_kernel", seq_lens_kernel, shape_for(requests, launch), launch, p, launch.mailbox);
}

void batch_indices_cuda(const BatchIndicesParams& p, const CudaLaunch& launch) {
  const int64_t requests = p.indptr.count - 1, count = p.tokens > requests ? p.tokens : requests;
  launch_kernel("batch_indices_kernel", batch_indices_kernel, shape_for(count, launch), launch, p, launch.mailbox);
}

}  // namespace rope
