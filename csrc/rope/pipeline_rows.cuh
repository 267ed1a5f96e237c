// What the pipeline's kernel does with a lane's unit of a row while it is in registers: rotation, norm, conversion, store.
#pragma once

#include <type_traits>

#include "angles.cuh"
#include "chunks.cuh"
#include "pipeline_launch.h"

namespace rope {

template <class T>
constexpr int dtype_of() {
  return std::is_same_v<T, double>   ? ROPE_FLOAT64
         : std::is_same_v<T, float>  ? ROPE_FLOAT32
         : std::is_same_v<T, __half> ? ROPE_FLOAT16
                                     : ROPE_BFLOAT16;
}

template <class T>
using RealOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

// No instruction: keeps the compiler from computing both sides of a branch, in twice as many registers.
__device__ __forceinline__ void stay_a_branch() {
#if defined(__CUDA_ARCH__)
  asm volatile("");
#endif
}

// No instruction: what is computed from the number, or read through it, is not kept in registers for a whole loop.
template <class Number>
__device__ __forceinline__ Number anew(Number number) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+r"(number));
#endif
  return number;
}

// ---- rows ----------------------------------------------------------------------------------------------------------------------------

struct Unit {
  bool turns;
  bool has_a, has_b;
  int a, b;  // where its chunks begin in the row as it is read, channels
};

template <int N>
__device__ __forceinline__ Unit unit_of(const PipelineKernelParams& p, const KernelPart& part, int index) {
  if (index < part.turning) {
    const int first = p.rotary_offset + p.in_step * index;
    return {true, true, true, first, first + p.in_second};
  }
  // Chunks outside the rotary slice are counted through; the second chunks come after all first ones, so that neighbours read neighbours.
  const int first = index - part.turning, second = first + (part.passing + 1) / 2, slice = 2 * N * part.turning;
  const auto place = [&](int chunk) { return chunk * N + (chunk * N < p.rotary_offset ? 0 : slice); };
  const bool has_a = first < (part.passing + 1) / 2, has_b = second < part.passing && has_a;
  return {false, has_a, has_b, has_a ? place(first) : 0, has_b ? place(second) : 0};
}

// Interleaved chunks end to end, x0 y0 x1 y1 ..., to (x0 x1 ...) and (y0 y1 ...), and back.
template <int N, class Real>
__device__ __forceinline__ void take_apart(Real (&a)[N], Real (&b)[N]) {
  stay_a_branch();
  Real both[2 * N];
#pragma unroll
  for (int i = 0; i < N; ++i) both[i] = a[i], both[N + i] = b[i];
#pragma unroll
  for (int i = 0; i < N; ++i) a[i] = both[2 * i], b[i] = both[2 * i + 1];
}

template <int N, class Real>
__device__ __forceinline__ void put_together(Real (&a)[N], Real (&b)[N]) {
  stay_a_branch();
  Real both[2 * N];
#pragma unroll
  for (int i = 0; i < N; ++i) both[2 * i] = a[i], both[2 * i + 1] = b[i];
#pragma unroll
  for (int i = 0; i < N; ++i) a[i] = both[i], b[i] = both[N + i];
}

// ---- cos and sin in shared memory: Real [tokens][cos, sin][entries], of full tables [cos, sin of the first member, of the second] -----

// The pairs are in an order such that neighbouring lanes read neighbouring pieces: all first halves of the lanes' pairs, then all second
// ones.
template <int N>
__device__ __forceinline__ int pair_of(const PipelineKernelParams& p, int entry) {
  constexpr int kHalf = N == 1 ? 1 : N / 2;
  if (N == 1 || p.apart) return entry;
  const int half = entry >= p.pairs / 2 ? 1 : 0, within = entry - half * (p.pairs / 2);
  return within / kHalf * N + half * kHalf + within % kHalf;
}

template <class Real>
__device__ __forceinline__ Real load_from_table(const char* from, int64_t i, int dtype) {
  switch (dtype) {
    case ROPE_FLOAT16: return widen(reinterpret_cast<const __half*>(from)[i]);
    case ROPE_BFLOAT16: return widen(reinterpret_cast<const __nv_bfloat16*>(from)[i]);
    default: return widen(reinterpret_cast<const float*>(from)[i]);
  }
}

// What a pair is multiplied by: x * cos[0] - y * sin[0] and y * cos[1] + x * sin[1].
template <class Real>
__device__ __forceinline__ void read_table(const KernelTable& table, int pairs, int64_t row, int pair, Real (&cos)[2], Real (&sin)[2]) {
  const int first = table.full && table.interleaved ? 2 * pair : pair,
            second = !table.full ? pair : first + (table.interleaved ? 1 : pairs);
  const char *const cos_row = table.cos + row * table.cos_row, *const sin_row = table.sin + row * table.sin_row;
  cos[0] = load_from_table<Real>(cos_row, first, table.dtype), cos[1] = load_from_table<Real>(cos_row, second, table.dtype);
  sin[0] = load_from_table<Real>(sin_row, table.transposed ? second : first, table.dtype);
  sin[1] = load_from_table<Real>(sin_row, table.transposed ? first : second, table.dtype);
  if (table.backward) sin[0] = -sin[0], sin[1] = -sin[1];
}

template <class Real, int N>
__device__ __forceinline__ Chunk<Real, N> load_shared(const char* from) {
  return load<Real, N>(reinterpret_cast<const Real*>(from));
}

// The rotation of a lane's pairs. `angles` points at the first half's cos.
template <int N, class Real>
__device__ __forceinline__ void rotate(const PipelineKernelParams& p, const char* angles, Real (&x)[N], Real (&y)[N]) {
  constexpr int kHalf = N == 1 ? 1 : N / 2;
  if (N > 1 && p.in_interleaved) take_apart(x, y);
#pragma unroll
  for (int first = 0; first < N; first += kHalf) {
    Chunk<Real, kHalf> cos = load_shared<Real, kHalf>(angles), sin = load_shared<Real, kHalf>(angles + p.plane);
    if (p.table.full) {
      stay_a_branch();
      Real turned[kHalf];
#pragma unroll
      for (int i = 0; i < kHalf; ++i) turned[i] = x[first + i] * cos.at[i] - y[first + i] * sin.at[i];
      cos = load_shared<Real, kHalf>(angles + 2 * p.plane);
      sin = load_shared<Real, kHalf>(angles + 3 * p.plane);
#pragma unroll
      for (int i = 0; i < kHalf; ++i) {
        y[first + i] = y[first + i] * cos.at[i] + x[first + i] * sin.at[i];
        x[first + i] = turned[i];
      }
    } else {
      stay_a_branch();
#pragma unroll
      for (int i = 0; i < kHalf; ++i) {
        Real &a = x[first + i], &b = y[first + i];
        const Real turned_a = a * cos.at[i] - b * sin.at[i], turned_b = b * cos.at[i] + a * sin.at[i];
        const bool stays = p.angles.still_at != 0 && is_still(cos.at[i]);
        a = stays ? a : turned_a;
        b = stays ? b : turned_b;
      }
    }
    angles += p.half_plane;
  }
  if (N > 1 && p.out_interleaved) put_together(x, y);
}

template <int N, class Real>
__device__ __forceinline__ void multiply(Real factor, Real (&x)[N], Real (&y)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = x[i] * factor, y[i] = y[i] * factor;
}

// ---- norm ------------------------------------------------------------------------------------------------------------------------------

template <class Weight, int N, class Real>
__device__ __forceinline__ void multiply_by_weights(const KernelPart& part, int64_t at, Real (&x)[N]) {
  stay_a_branch();
  constexpr int kPiece = N < 4 ? N : 4;
#pragma unroll
  for (int first = 0; first < N; first += kPiece) {
    Real weight[kPiece];
    widen(load<Weight, kPiece>(reinterpret_cast<const Weight*>(part.weight) + at + first), weight);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) x[first + i] = x[first + i] * (part.unit_offset ? weight[i] + 1 : weight[i]);
  }
}

// The norm of as many elements of each of a unit's chunks; over the width: of a head's.
template <class T, int N, class Real>
__device__ __forceinline__ void apply_norm(const KernelPart& part, Real inverse, int head, const Unit& unit, Real (&x)[N], Real (&y)[N]) {
  multiply(inverse, x, y);
  if (part.weight == nullptr) return;
  const int64_t first = part.norm_width ? int64_t{anew(head)} * part.width : 0;
  if (part.wide_weight) {
    multiply_by_weights<float>(part, first + unit.a, x);
    if (unit.has_b) multiply_by_weights<float>(part, first + unit.b, y);
  } else {
    multiply_by_weights<T>(part, first + unit.a, x);
    if (unit.has_b) multiply_by_weights<T>(part, first + unit.b, y);
  }
}

// A product of two floats is exact in double.
__device__ __forceinline__ double add_square(double sum, float x) { return fma(static_cast<double>(x), static_cast<double>(x), sum); }
__device__ __forceinline__ double add_square(double sum, double x) { return sum + x * x; }

template <int N, class Real>
__device__ __forceinline__ double sum_of_squares(const Unit& unit, const Real (&x)[N], const Real (&y)[N]) {
  double of_x = 0, of_y = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) of_x = add_square(of_x, x[i]), of_y = add_square(of_y, y[i]);
  return (unit.has_a ? of_x : 0) + (unit.has_b ? of_y : 0);
}

// 1 / sqrt(mean + eps), rounded to what is computed with. For float32 to a last bit of float64, by Newton's steps from a rough start: a
// tenth of the instructions of a root and two divisions.
template <class Real>
__device__ __forceinline__ Real inverse_root(const KernelPart& part, double sum) {
  if constexpr (std::is_same_v<Real, double>) return 1 / sqrt(sum / part.channels + part.eps);
  const double x = fma(sum, part.channels_inverse, part.eps);
  double y = __longlong_as_double(0x5fe6eb50c7b537a9 - (__double_as_longlong(x) >> 1));
#pragma unroll
  for (int i = 0; i < 4; ++i) y = y * fma(-0.5 * x * y, y, 1.5);
  if (x == 0) return HUGE_VAL;
  return x > 1.7976931348623157e308 ? 0 : static_cast<Real>(y);
}

// ---- store -----------------------------------------------------------------------------------------------------------------------------

template <class Out, int N, class Real>
__device__ __forceinline__ void store_as(char* row, const Unit& unit, const Real (&x)[N], const Real (&y)[N]) {
  Out* const out = reinterpret_cast<Out*>(row);
  store_narrow(out + unit.a, x);
  if (unit.has_b) store_narrow(out + unit.b, y);
}

template <int N>
__device__ __forceinline__ void store_as(int dtype, char* row, const Unit& unit, const float (&x)[N], const float (&y)[N]) {
  switch (dtype) {
    case ROPE_FLOAT32: return store_as<float>(row, unit, x, y);
    case ROPE_FLOAT16: return store_as<__half>(row, unit, x, y);
    case ROPE_BFLOAT16: return store_as<__nv_bfloat16>(row, unit, x, y);
    case ROPE_FLOAT8_E4M3FN: return store_as<E4m3>(row, unit, x, y);
    default: return store_as<E5m2>(row, unit, x, y);
  }
}
template <int N>
__device__ __forceinline__ void store_as(int dtype, char* row, const Unit& unit, const double (&x)[N], const double (&y)[N]) {
  switch (dtype) {
    case ROPE_FLOAT64: return store_as<double>(row, unit, x, y);
    case ROPE_FLOAT8_E4M3FN: return store_as<E4m3>(row, unit, x, y);
    default: return store_as<E5m2>(row, unit, x, y);
  }
}

// The hardware makes one NaN of all. Where nothing is computed a NaN keeps its sign and as much of its payload as dtypes.h says.
template <class T>
__device__ __noinline__ static void store_nan(float x, int dtype, char* row, int at) {
  constexpr int kOwn = dtype_of<T>();
  uint32_t bits = __float_as_uint(x);
  if (dtype != kOwn && !(kOwn == ROPE_BFLOAT16 && dtype == ROPE_FLOAT32)) bits |= 0x00400000;
  if (dtype == ROPE_FLOAT32) {
    reinterpret_cast<uint32_t*>(row)[at] = bits;
  } else if (dtype == ROPE_BFLOAT16) {
    reinterpret_cast<uint16_t*>(row)[at] = static_cast<uint16_t>(bits >> 16);
  } else if (dtype == ROPE_FLOAT16) {
    reinterpret_cast<uint16_t*>(row)[at] = static_cast<uint16_t>((bits >> 16 & 0x8000) | 0x7c00 | (bits >> 13 & 0x3ff));
  } else {
    reinterpret_cast<uint8_t*>(row)[at] = static_cast<uint8_t>((bits >> 24 & 0x80) | 0x7f);
  }
}

// The hardware widens them to one NaN too.
__device__ __forceinline__ void keep_nan(__half x, float* out) {
  const uint32_t bits = __half_as_ushort(x);
  if ((bits & 0x7fff) > 0x7c00) *out = __uint_as_float((bits & 0x8000) << 16 | 0x7f800000 | (bits & 0x3ff) << 13);
}

template <int N>
__device__ __forceinline__ void keep_nans(const Chunk<__half, N>& chunk, float (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) keep_nan(chunk.at[i], &x[i]);
}

template <class T, int N>
__device__ __forceinline__ void store_nans(int dtype, char* row, const Unit& unit, const float (&x)[N], const float (&y)[N]) {
  bool any = false;
#pragma unroll
  for (int i = 0; i < N; ++i) any |= x[i] != x[i] || y[i] != y[i];
  if (!any) return;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (x[i] != x[i]) store_nan<T>(x[i], dtype, row, unit.a + i);
    if (unit.has_b && y[i] != y[i]) store_nan<T>(y[i], dtype, row, unit.b + i);
  }
}

}  // namespace rope
