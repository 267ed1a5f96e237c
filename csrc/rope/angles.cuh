// cos and sin of a pair from a token's position and the table of frequencies, the same bits as angles in rotate_rows.cpp.
#pragma once

#include <cstdint>

#include "../core/angle.h"
#include "angle_params.h"
#include "positions.cuh"

namespace rope {

template <size_t kBytes>
__device__ __forceinline__ const uint64_t* table_of(const AngleParamsOf<kBytes>& p) {
  return reinterpret_cast<const uint64_t*>(p.table != nullptr ? p.table : p.inline_table);
}

// Stands for the cos of a pair that passes through; no cos has these bits.
constexpr uint32_t kStill = 0x7fc57111;
__device__ __forceinline__ bool is_still(float cos) { return __float_as_uint(cos) == kStill; }
__device__ __forceinline__ bool is_still(double cos) { return __double2hiint(cos) == static_cast<int>(kStill); }
__device__ __forceinline__ void make_still(float* cos) { *cos = __uint_as_float(kStill); }
__device__ __forceinline__ void make_still(double* cos) { *cos = __hiloint2double(static_cast<int>(kStill), 0); }

__device__ __forceinline__ void cos_sin_of_turns(uint64_t turns, float* cos, float* sin) { cos_sin_turns(turns, cos, sin); }
__device__ __forceinline__ void cos_sin_of_turns(uint64_t turns, double* cos, double* sin) {
  const uint64_t quadrant = (turns + (uint64_t{1} << 61)) >> 62;
  double s, c;
  sincos(static_cast<double>(static_cast<int64_t>(turns - (quadrant << 62))) * (0x1p-62 * 1.57079632679489661923), &s, &c);
  *cos = ((quadrant + 1) & 2) != 0 ? -((quadrant & 1) != 0 ? s : c) : ((quadrant & 1) != 0 ? s : c);
  *sin = (quadrant & 2) != 0 ? -((quadrant & 1) != 0 ? c : s) : ((quadrant & 1) != 0 ? c : s);
}
__device__ __forceinline__ void cos_sin_of_radians(float radians, float* cos, float* sin) { cos_sin_radians(radians, cos, sin); }
__device__ __forceinline__ void cos_sin_of_radians(float radians, double* cos, double* sin) {
  sincos(static_cast<double>(radians), sin, cos);
}

__device__ __forceinline__ void apply_factors(const AngleNumbers& p, float* cos, float* sin) { *cos *= p.cos_factor, *sin *= p.sin_factor; }
__device__ __forceinline__ void apply_factors(const AngleNumbers& p, double* cos, double* sin) {
  *cos *= p.cos_factor_double, *sin *= p.sin_factor_double;
}

__device__ __forceinline__ float inv_freq_of(uint64_t entry) { return __uint_as_float(static_cast<uint32_t>(entry)); }

// cos and sin of one pair, factors and direction included, from its entry of the table for axis 0 and the token's place there.
template <Where where, class Real>
__device__ __forceinline__ void cos_sin_of_pair(const AngleNumbers& p, const uint64_t* table, Token* t, Place place, int index,
                                                uint64_t entry, Real* cos, Real* sin) {
  float radians = place.rounded * inv_freq_of(entry);
  uint64_t turns = entry * static_cast<uint64_t>(place.whole);
  if constexpr (where == Where::any) {
    const double* const turns_per_position = reinterpret_cast<const double*>(table + static_cast<int64_t>(p.axes) * p.axis_stride);
    if (p.fractional && !p.hf) turns += turns_of_fraction(place.fraction, turns_per_position[index]);
    for (int axis = 1; axis < p.axes; ++axis) {
      const int64_t there = index + static_cast<int64_t>(axis) * p.axis_stride;
      read_place<where>(p.positions, p.axes, id_of(p.positions, axis, *t), t, &place);
      radians += place.rounded * inv_freq_of(table[there]);
      turns += table[there] * static_cast<uint64_t>(place.whole);
      if (p.fractional && !p.hf) turns += turns_of_fraction(place.fraction, turns_per_position[there]);
    }
  }
  if (p.hf) {
    cos_sin_of_radians(radians, cos, sin);
  } else {
    cos_sin_of_turns(turns, cos, sin);
  }
  apply_factors(p, cos, sin);
  if constexpr (where == Where::any) {
    if (p.still_at == 0) return;
    const uint32_t* const still = reinterpret_cast<const uint32_t*>(reinterpret_cast<const char*>(table) + p.still_at);
    if ((still[index / 32] >> (index % 32) & 1) != 0) make_still(cos);
  }
}

}  // namespace rope
