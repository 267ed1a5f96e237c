// The rotation's kernels for float16.
#include "rotate_kernel.cuh"

namespace rope {

RotateKernel rotate_float16(const RotateForm& form) { return kernel_of<__half>(form); }

}  // namespace rope
