// The pipeline's kernels for float16.
#include "pipeline_fast.cuh"
#include "pipeline_kernel.cuh"

namespace rope {

PipelineKernel pipeline_float16(PipelineForm form) {
  constexpr int N = kPipelineChunkBytes / sizeof(__half);
  switch (form) {
    case PipelineForm::fast: return pipeline_fast<__half, N>;
    case PipelineForm::wide: return pipeline_kernel<__half, N>;
    default: return pipeline_kernel<__half, 1>;
  }
}

}  // namespace rope
