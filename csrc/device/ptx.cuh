// PTX, one short function per instruction, named after it. Where kernels are compiled for the host they do nothing.
#pragma once

#include <cuda_runtime.h>

namespace rope::ptx {

// Programmatic dependent launch (sm_90). Nothing that an earlier kernel may write is touched before the wait, which returns once the kernels
// before are complete and their writes visible; the other lets the next kernel's blocks become resident. Both do nothing in a launch without
// the attribute.
__device__ __forceinline__ void griddepcontrol_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void griddepcontrol_launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Brings a line into the L2, where all kernels see the same bytes: harmless even while another kernel writes there.
__device__ __forceinline__ void prefetch_global_l2([[maybe_unused]] const void* address) {
#if defined(__CUDA_ARCH__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#endif
}

// No instruction: the pointer, into global memory, is computed here and kept, not computed again after a wait.
template <class T>
__device__ __forceinline__ void keep([[maybe_unused]] T*& pointer) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+l"(pointer));
  __builtin_assume(__isGlobal(pointer));
#endif
}

}  // namespace rope::ptx
