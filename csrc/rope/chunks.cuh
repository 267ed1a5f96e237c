// Chunks of a row between memory and registers: loaded and stored by one access, widened to what is computed with, rounded once.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../core/dtypes.h"
#include "../device/ptx.cuh"
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

template <class T, int N, class Real>
__device__ __forceinline__ void widen(const Chunk<T, N>& chunk, Real (&out)[N]) {
  if constexpr (std::is_same_v<T, __nv_bfloat16> && N > 1) {  // two by two: an instruction each
    uint32_t words[N / 2];
    memcpy(words, &chunk, sizeof words);
#pragma unroll
    for (int i = 0; i < N; i += 2) out[i] = __uint_as_float(words[i / 2] << 16), out[i + 1] = __uint_as_float(words[i / 2] & 0xffff0000);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = widen(chunk.at[i]);
  }
}

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

// By the hardware where it can.
__device__ __forceinline__ void narrow(float x, E4m3* out) { out->code = float_to_e4m3(x); }
__device__ __forceinline__ void narrow(float x, E5m2* out) { out->code = float_to_e5m2(x); }
__device__ __forceinline__ void narrow(double x, E4m3* out) { out->code = double_to_e4m3(x); }
__device__ __forceinline__ void narrow(double x, E5m2* out) { out->code = double_to_e5m2(x); }
template <class T>
__device__ __forceinline__ uint32_t narrow_four(const float* x) {
#if __CUDA_ARCH__ >= 890
  return std::is_same_v<T, E4m3> ? ptx::cvt_e4m3x4(x[0], x[1], x[2], x[3]) : ptx::cvt_e5m2x4(x[0], x[1], x[2], x[3]);
#else
  uint32_t four = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    T one;
    narrow(x[i], &one);
    four |= uint32_t{one.code} << (8 * i);
  }
  return four;
#endif
}

template <class T, int N>
__device__ __forceinline__ Raw<N> narrow_words(const float (&x)[N]) {
  static_assert(N % 4 == 0);
  uint32_t words[N / 4];
#pragma unroll
  for (int i = 0; i < N; i += 4) words[i / 4] = narrow_four<T>(&x[i]);
  Raw<N> raw;
  memcpy(&raw, words, sizeof raw);
  return raw;
}

template <class T, int N, class Real>
__device__ __forceinline__ Chunk<T, N> narrow(const Real (&x)[N]) {
  Chunk<T, N> chunk;
  if constexpr (std::is_same_v<T, Real>) {
    memcpy(&chunk, &x, sizeof chunk);
  } else if constexpr (N == 1) {
    narrow(x[0], &chunk.at[0]);
  } else if constexpr (sizeof(T) == 1) {
    const Raw<N> raw = narrow_words<T, N>(x);
    memcpy(&chunk, &raw, sizeof chunk);
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

// float8 goes from registers to memory in words: as chunks of bytes the compiler would take them apart and put them together again.
template <class T, int N, class Real>
__device__ __forceinline__ void store_narrow(T* to, const Real (&x)[N]) {
  if constexpr (sizeof(T) == 1 && N > 1) {
    *reinterpret_cast<Raw<N>*>(to) = narrow_words<T, N>(x);
  } else {
    store(to, narrow<T, N>(x));
  }
}

}  // namespace rope
