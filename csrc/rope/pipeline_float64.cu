// The pipeline's kernel for float64.
#include "pipeline_kernel.cuh"

namespace rope {

PipelineKernel pipeline_float64() { return pipeline_kernel<double, 1>; }

}  // namespace rope
