// rope_cos_sin on CUDA: the cosines and sines that a rotation uses, by the same functions of angles.cuh.
// Layout: blocks of 256 threads along one dimension; thread i has element i of cos and of sin, [tokens, width], width the pairs of all heads: one
//   pair of one head of one token. Neighbours write neighbouring floats.
// Roles: all alike; nothing is shared. A thread reads its token's place on every axis, and its frequency from the parameters or, where they are
//   too many, from a table in memory.
// Protocol: padding gets 1 and 0. A token out of range is not written, and its first thread leaves the fault in the mailbox.
#include "../core/status.h"
#include "angle_table.h"
#include "angles.cuh"
#include "rotate.h"

namespace rope {
namespace {

constexpr int kBlock = 256;

struct CosSinKernelParams {
  float* cos;  // [tokens, width]
  float* sin;
  int64_t count;  // tokens * width
  int32_t width;  // pairs of all heads
  AngleParams angles;
};
static_assert(sizeof(CosSinKernelParams) <= 4096);

// 4 blocks: without a number the compiler takes too few registers, and spills.
__global__ void __launch_bounds__(kBlock, 4) cos_sin_kernel(const __grid_constant__ CosSinKernelParams p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= p.count) return;
  const AngleParams& angles = p.angles;
  Token t{0, static_cast<uint32_t>(i / p.width), -1};
  const int index = static_cast<int>(i % p.width);
  Place place, other;
  Verdict verdict = read_place<Where::any>(angles.positions, angles.axes, id_of(angles.positions, 0, t), &t, &place);
  for (int axis = 1; axis < angles.axes; ++axis) {
    const Verdict there = read_place<Where::any>(angles.positions, angles.axes, id_of(angles.positions, axis, t), &t, &other);
    if (there > verdict) verdict = there;
  }
  if (verdict == kSkip) {
    if (index == 0) report_position(angles.positions, angles.axes, t, CudaOperation::cos_sin, angles.mailbox);
    return;
  }
  float cos = 1, sin = 0;  // of padding
  if (verdict == kRotate) {
    const uint64_t* const table = table_of(angles);
    cos_sin_of_pair<Where::any>(angles, table, &t, place, index, table[index], &cos, &sin);
  }
  p.cos[i] = cos;
  p.sin[i] = sin;
}

}  // namespace

void cos_sin_cuda(const CosSinParams& p, const CudaLaunch& launch) {
  if (p.grid.tokens == 0) return;
  CosSinKernelParams k;
  set_angle_params(&k.angles, p.positions, p.grid.tokens, "positions", p.frequencies, p.hf, p.backward, launch);
  k.angles.still_at = 0;  // pairs that do not turn have a cos and a sin too
  k.cos = p.cos;
  k.sin = p.sin;
  k.width = k.angles.axis_stride;
  k.count = p.grid.tokens * k.width;
  const int64_t blocks = (k.count + kBlock - 1) / kBlock;
  if (blocks > INT32_MAX) {
    fail(ROPE_ARGUMENT, "positions", text("such that cos has at most %lld elements on CUDA", static_cast<long long>(kBlock) * INT32_MAX),
         text("%lld", static_cast<long long>(k.count)));
  }
  launch_kernel("cos_sin_kernel", cos_sin_kernel, {static_cast<unsigned>(blocks), kBlock}, launch, k);
}

}  // namespace rope
