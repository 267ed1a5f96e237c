// Chunks of a row between memory and registers: loaded and stored by one access, widened to what is computed with, rounded once.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../core/dtypes.h"
#include "../device/raw.cuh"

namespace rope {

template <class T, int N>
struct alignas(sizeof(T) * N) Chunk {
  T at[N];
};

template <class T, int N>
__device__ __forceinline__ Chunk<T, N> load(const T* from) {
  const auto word = *reinterpret_cast<const Raw<sizeof(T) * N>*>(from);
  Chunk<T, N> chunk;
  memcpy(&chunk, &word, sizeof word);
  return chunk;
}

template <class T, int N>
__device__ __forceinline__ void store(T* to, const Chunk<T, N>& chunk) {
  Raw<sizeof(T) * N> word;
  memcpy(&word, &chunk, sizeof word);
  *reinterpret_cast<Raw<sizeof(T) * N>*>(to) = word;
}

// A chunk of 16 bytes on its way to shared memory, past the registers. It has arrived after wait_for_copies() of the same thread.
template <class T, int N>
__device__ __forceinline__ void copy_async(T* shared, const T* from) {
  static_assert(sizeof(T) * N == 16);
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(from)
               : "memory");
#else
  memcpy(shared, from, 16);
#endif
}
__device__ __forceinline__ void wait_for_copies() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }

__device__ __forceinline__ void narrow(const float* x, __nv_bfloat162* out) { *out = __floats2bfloat162_rn(x[0], x[1]); }
__device__ __forceinline__ void narrow(const float* x, __half2* out) { *out = __floats2half2_rn(x[0], x[1]); }
__device__ __forceinline__ void narrow(float x, __nv_bfloat16* out) { *out = __float2bfloat16_rn(x); }
__device__ __forceinline__ void narrow(float x, __half* out) { *out = __float2half_rn(x); }

struct E4m3 {
  uint8_t code;
};
struct E5m2 {
  uint8_t code;
};

// By the hardware where it can: the same bits, but that every NaN is the positive one.
__device__ __forceinline__ void narrow(float x, E4m3* out) { out->code = float_to_e4m3(x); }
__device__ __forceinline__ void narrow(float x, E5m2* out) { out->code = float_to_e5m2(x); }
__device__ __forceinline__ void narrow(double x, E4m3* out) { out->code = double_to_e4m3(x); }
__device__ __forceinline__ void narrow(double x, E5m2* out) { out->code = double_to_e5m2(x); }
__device__ __forceinline__ uint16_t narrow_two(float x, float y, E4m3) {
#if __CUDA_ARCH__ >= 890
  uint16_t two;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %2, %1;" : "=h"(two) : "f"(x), "f"(y));
  return two;
#else
  return static_cast<uint16_t>(float_to_e4m3(x) | float_to_e4m3(y) << 8);
#endif
}
__device__ __forceinline__ uint16_t narrow_two(float x, float y, E5m2) {
#if __CUDA_ARCH__ >= 890
  uint16_t two;
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %2, %1;" : "=h"(two) : "f"(x), "f"(y));
  return two;
#else
  return static_cast<uint16_t>(float_to_e5m2(x) | float_to_e5m2(y) << 8);
#endif
}

template <class T, int N, class Real>
__device__ __forceinline__ Chunk<T, N> narrow(const Real (&x)[N]) {
  Chunk<T, N> chunk;
  if constexpr (std::is_same_v<T, Real>) {
    memcpy(&chunk, &x, sizeof chunk);
  } else if constexpr (N == 1) {
    narrow(x[0], &chunk.at[0]);
  } else if constexpr (sizeof(T) == 1) {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      const uint16_t two = narrow_two(x[i], x[i + 1], T{});
      memcpy(&chunk.at[i], &two, sizeof two);
    }
  } else {  // two by two: one instruction
    using Two = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      Two two;
      narrow(&x[i], &two);
      memcpy(&chunk.at[i], &two, sizeof two);
    }
  }
  return chunk;
}

}  // namespace rope
