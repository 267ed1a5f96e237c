// The pipeline's kernels for float32.
#include "pipeline_fast.cuh"
#include "pipeline_kernel.cuh"

namespace rope {

PipelineKernel pipeline_float32(PipelineForm form) {
  constexpr int N = kPipelineChunkBytes / sizeof(float);
  switch (form) {
    case PipelineForm::fast: return pipeline_fast<float, N>;
    case PipelineForm::wide: return pipeline_kernel<float, N>;
    default: return pipeline_kernel<float, 1>;
  }
}

}  // namespace rope
