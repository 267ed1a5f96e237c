// Between the launcher of the rotation and its kernels, which are compiled for one dtype at a time: rotate_<dtype>.cu.
#pragma once

#include <cstdint>

#include "angle_params.h"

namespace rope {

constexpr int kChunkBytes = 16;
constexpr int kWideThreads = 256, kNarrowThreads = 640;  // of a block, at most; narrow: chunks of one element

enum class Order { halves, interleaved };  // of pairs in a row: (j, j + pairs) or (2j, 2j + 1)

struct RotateSide {                     // q or k
  const char* in;                       // [batch, tokens, heads, head_dim]
  char* out;                            // the same; may be `in`
  int64_t in_batch, in_token, in_head;  // strides, bytes
  int64_t out_batch, out_token, out_head;
};

struct RotateKernelParams {
  RotateSide q, k;
  uint32_t batch, tokens;
  int32_t q_heads;
  int32_t heads;          // of q and k together
  int32_t turning;        // lanes that turn; those after them pass through
  int32_t passing;        // chunks that pass through
  int32_t rotary_offset;  // elements
  int32_t pairs;
  uint32_t prefetching;  // blocks along x that prefetch: as a rule those that may be there before the kernel ahead is done
  bool q_in_place, k_in_place;
  bool in_interleaved, out_interleaved;  // what kernels of chunks of one element go by
  bool head_rows;                        // the table has a row for each head, and a block one head
  AngleParams angles;
};
static_assert(sizeof(RotateKernelParams) <= 4096);

using RotateKernel = void (*)(RotateKernelParams);

// Which kernel: chunks of 16 bytes or of one element, and so on.
struct RotateForm {
  bool wide;
  Where where;
  int rows;  // of a thread: 1 or 2; not wide: any, 1; 1 too where any place meets pairs that move
  Order in, out;
};

RotateKernel rotate_float16(const RotateForm& form);
RotateKernel rotate_bfloat16(const RotateForm& form);
RotateKernel rotate_float32(const RotateForm& form);
RotateKernel rotate_float64(const RotateForm& form);

}  // namespace rope
