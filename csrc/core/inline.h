// ROPE_INLINE: a function with internal linkage that is always inlined, on the host and, where nvcc compiles it, on the device. Files
// compiled once per instruction set may only use such functions, so that the linker can never put an AVX-512 copy of a shared one on the
// path of an older processor. ROPE_HOST_DEVICE is the same, and says that the device is meant too.
#pragma once

#if defined(__CUDACC__)
#define ROPE_INLINE __host__ __device__ __forceinline__ static
#else
#define ROPE_INLINE static inline __attribute__((always_inline))
#endif
#define ROPE_HOST_DEVICE ROPE_INLINE
#define ROPE_INLINE_LAMBDA __attribute__((always_inline))
