// The pipeline's kernels for float16.
#include "pipeline_kernel.cuh"
#include "pipeline_swift.cuh"

namespace rope {

PipelineKernel pipeline_float16(PipelineForm form) {
  constexpr int N = kPipelineChunkBytes / sizeof(__half);
  switch (form) {
    case PipelineForm::swift: return pipeline_swift<__half, N>;
    case PipelineForm::wide: return pipeline_kernel<__half, N>;
    default: return pipeline_kernel<__half, 1>;
  }
}

}  // namespace rope
