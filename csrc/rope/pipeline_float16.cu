// The pipeline's kernels for float16.
#include "pipeline_kernel.cuh"

namespace rope {

PipelineKernel pipeline_float16(bool wide) {
  return wide ? pipeline_kernel<__half, kPipelineChunkBytes / sizeof(__half)> : pipeline_kernel<__half, 1>;
}

}  // namespace rope
