// The rotation's kernels for bfloat16.
#include "rotate_kernel.cuh"

namespace rope {

RotateKernel rotate_bfloat16(const RotateForm& form) { return kernel_of<__nv_bfloat16>(form); }

}  // namespace rope
