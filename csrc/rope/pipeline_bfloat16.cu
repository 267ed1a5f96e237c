// The pipeline's kernels for bfloat16.
#include "pipeline_kernel.cuh"

namespace rope {

PipelineKernel pipeline_bfloat16(bool wide) {
  return wide ? pipeline_kernel<__nv_bfloat16, kPipelineChunkBytes / sizeof(__nv_bfloat16)> : pipeline_kernel<__nv_bfloat16, 1>;
}

}  // namespace rope
