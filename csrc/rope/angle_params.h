// What kernels need to know to compute angles: a part of their parameters.
#pragma once

#include "../device/cuda_launch.h"
#include "positions.h"

namespace rope {

// Frequencies up to this travel as a kernel parameter, more lie in the device's memory.
constexpr size_t kInlineTableBytes = 3584;
// What their numbers, of 32 bits on the device, can count.
constexpr int64_t kMaxTokens = int64_t{1} << 31, kMaxFrequencies = int64_t{1} << 26;

// What a kernel is compiled for: positions from ids, positions derived from offsets and indptr, or any. All but `any`: one axis of whole
// positions, all pairs turn, all heads alike, and strides from head to head below 2^32 bytes.
enum class Where { ids, derived, any };

struct AngleNumbers {
  Positions positions;
  bool hf;
  bool fractional;  // float positions
  int32_t axes;
  int32_t axis_stride;  // of the table, entries
  int32_t still_at;     // where the table's still bits begin, bytes; 0: there are none, or they do not matter
  float cos_factor, sin_factor;
  double cos_factor_double, sin_factor_double;  // for float64 tensors
  CudaMailbox* mailbox;
  const char* table;  // null: inline_table
};

// With the table of frequencies where it is small.
template <size_t kBytes>
struct AngleParamsOf : AngleNumbers {
  // uint64 turns [axes][rows][pairs], or for hf the float32 inv_freq in the low half; for fractional exact angles then double turns
  // [axes][rows][pairs]; then a bit for each pair that passes through bit for bit, if any does, uint32 [rows * pairs / 32]
  alignas(16) char inline_table[kBytes];
};
using AngleParams = AngleParamsOf<kInlineTableBytes>;

}  // namespace rope
