// The params of rope_fill: checked, trusted by the backends.
#pragma once

#include <cstdint>

#include "../include/rope.h"

namespace rope {

struct CudaLaunch;

enum class FillKind {
  constant,        // start
  arange,          // start + step * index, in float64
  integer_arange,  // integer_start + integer_step * index, exactly
  normal           // number `index` of the seed
};

struct FillParams {
  char* target;  // [shape]; no two indices name one element
  int64_t shape[ROPE_MAX_RANK];
  int64_t target_stride[ROPE_MAX_RANK];  // elements
  int rank;
  int dtype;
  FillKind kind;
  double start;
  double step;
  int64_t integer_start;
  int64_t integer_step;
  uint64_t seed;
};

rope_fault fill_cpu(const FillParams& params);
void fill_cuda(const FillParams& params, const CudaLaunch& launch);

}  // namespace rope
