// The params of rope_copy: checked, trusted by the backends.
#pragma once

#include <cstdint>

#include "../include/rope.h"

namespace rope {

struct CudaLaunch;

struct CopyParams {
  const char* source;  // [shape]
  char* target;        // [shape]; no two indices name one element, and none of source
  int64_t shape[ROPE_MAX_RANK];
  int64_t source_stride[ROPE_MAX_RANK];  // elements; 0 repeats
  int64_t target_stride[ROPE_MAX_RANK];
  int rank;
  int source_dtype;
  int target_dtype;
};

rope_fault copy_cpu(const CopyParams& params);
void copy_cuda(const CopyParams& params, const CudaLaunch& launch);

}  // namespace rope
