// The pipeline's kernels for float32.
#include "pipeline_kernel.cuh"
#include "pipeline_swift.cuh"

namespace rope {

PipelineKernel pipeline_float32(PipelineForm form) {
  constexpr int N = kPipelineChunkBytes / sizeof(float);
  switch (form) {
    case PipelineForm::swift: return pipeline_swift<float, N>;
    case PipelineForm::wide: return pipeline_kernel<float, N>;
    default: return pipeline_kernel<float, 1>;
  }
}

}  // namespace rope
