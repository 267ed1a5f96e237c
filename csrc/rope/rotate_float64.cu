// The rotation's kernels for float64.
#include "rotate_kernel.cuh"

namespace rope {

RotateKernel rotate_float64(const RotateForm& form) { return kernel_of<double>(form); }

}  // namespace rope
