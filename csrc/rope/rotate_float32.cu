// The rotation's kernels for float32.
#include "rotate_kernel.cuh"

namespace rope {

RotateKernel rotate_float32(const RotateForm& form) { return kernel_of<float>(form); }

}  // namespace rope
