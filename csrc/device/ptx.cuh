// PTX, one short function per instruction, named after it. Where kernels are compiled for the host they do what it comes to, or nothing.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

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

// A chunk of 16 bytes on its way to shared memory, past the registers. It has arrived after the wait of the same thread.
__device__ __forceinline__ void cp_async_16(void* shared, const void* from) {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(from)
               : "memory");
#else
  memcpy(shared, from, 16);
#endif
}
__device__ __forceinline__ void cp_async_wait_all() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Four floats to float8, the first in the lowest byte (sm_89): as dtypes.h converts them, but that every NaN is the positive one.
#if __CUDA_ARCH__ >= 890
__device__ __forceinline__ uint32_t cvt_e4m3x4(float a, float b, float c, float d) {
  uint32_t four;
  asm("{.reg .b16 low, high; cvt.rn.satfinite.e4m3x2.f32 low, %2, %1; cvt.rn.satfinite.e4m3x2.f32 high, %4, %3; mov.b32 %0, {low, high};}"
      : "=r"(four)
      : "f"(a), "f"(b), "f"(c), "f"(d));
  return four;
}
__device__ __forceinline__ uint32_t cvt_e5m2x4(float a, float b, float c, float d) {
  uint32_t four;
  asm("{.reg .b16 low, high; cvt.rn.satfinite.e5m2x2.f32 low, %2, %1; cvt.rn.satfinite.e5m2x2.f32 high, %4, %3; mov.b32 %0, {low, high};}"
      : "=r"(four)
      : "f"(a), "f"(b), "f"(c), "f"(d));
  return four;
}
#endif

// No instruction: what is loaded before it sets out before what is loaded after it.
__device__ __forceinline__ void keep_order() {
#if defined(__CUDA_ARCH__)
  asm volatile("" ::: "memory");
#endif
}

// No instruction: the pointer, null or into global memory, is computed here and kept, not computed again after a wait.
template <class T>
__device__ __forceinline__ void keep([[maybe_unused]] T*& pointer) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+l"(pointer));
  __builtin_assume(__isGlobal(pointer));
#endif
}

}  // namespace rope::ptx
