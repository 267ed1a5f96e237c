// Chunks of a row between memory and registers: loaded and stored by one access, widened to what is computed with, rounded once.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

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

__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }

__device__ __forceinline__ void narrow(const float* x, __nv_bfloat162* out) { *out = __floats2bfloat162_rn(x[0], x[1]); }
__device__ __forceinline__ void narrow(const float* x, __half2* out) { *out = __floats2half2_rn(x[0], x[1]); }
__device__ __forceinline__ void narrow(float x, __nv_bfloat16* out) { *out = __float2bfloat16_rn(x); }
__device__ __forceinline__ void narrow(float x, __half* out) { *out = __float2half_rn(x); }

template <class T, int N, class Real>
__device__ __forceinline__ Chunk<T, N> narrow(const Real (&x)[N]) {
  Chunk<T, N> chunk;
  if constexpr (std::is_same_v<T, Real>) {
    memcpy(&chunk, &x, sizeof chunk);
  } else if constexpr (N == 1) {
    narrow(x[0], &chunk.at[0]);
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
