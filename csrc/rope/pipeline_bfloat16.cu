// The pipeline's kernels for bfloat16.
#include "pipeline_fast.cuh"
#include "pipeline_kernel.cuh"

namespace rope {

PipelineKernel pipeline_bfloat16(PipelineForm form) {
  constexpr int N = kPipelineChunkBytes / sizeof(__nv_bfloat16);
  switch (form) {
    case PipelineForm::fast: return pipeline_fast<__nv_bfloat16, N>;
    case PipelineForm::wide: return pipeline_kernel<__nv_bfloat16, N>;
    default: return pipeline_kernel<__nv_bfloat16, 1>;
  }
}

}  // namespace rope
