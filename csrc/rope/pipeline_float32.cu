// The pipeline's kernels for float32.
#include "pipeline_kernel.cuh"

namespace rope {

PipelineKernel pipeline_float32(bool wide) {
  return wide ? pipeline_kernel<float, kPipelineChunkBytes / sizeof(float)> : pipeline_kernel<float, 1>;
}

}  // namespace rope
