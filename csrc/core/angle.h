// The angle maths, one copy for host and device: 64-bit turns to (cos, sin), and Hugging Face's float32 angles to the same.
// Plain multiplications and additions, no fused ones, so that every processor and both devices give the same bits.
#pragma once

#include <cstdint>

#include "inline.h"

namespace rope {

// (c, s) turned by a number of quarters.
ROPE_HOST_DEVICE void turn_quadrant(uint32_t quadrant, float c, float s, float* cos, float* sin) {
  const bool swap = (quadrant & 1) != 0;
  const float c_turned = swap ? s : c;
  const float s_turned = swap ? c : s;
  *cos = ((quadrant + 1) & 2) != 0 ? -c_turned : c_turned;
  *sin = (quadrant & 2) != 0 ? -s_turned : s_turned;
}

// (cos, sin) of an angle of at most pi/4 by Taylor series (the next terms are below 2e-9 and 2e-10), turned by `quadrant` quarters. The angle's
// rounding to float32 and that of 1 - z/2 are carried along, so that both results are within 0.6 ulp.
ROPE_HOST_DEVICE void cos_sin_quadrant(double angle, uint32_t quadrant, float* cos, float* sin) {
  const float a = static_cast<float>(angle);
  const float low = static_cast<float>(angle - static_cast<double>(a));
  const float z = a * a;
  const float half_z = 0.5f * z;
  const float rough = 1.0f - half_z;
  const float s = a + (a * z * (-1.0f / 6 + z * (1.0f / 120 + z * (-1.0f / 5040 + z * (1.0f / 362880)))) + low * rough);
  const float c = rough + (((1.0f - rough) - half_z) +
                           (z * z * (1.0f / 24 + z * (-1.0f / 720 + z * (1.0f / 40320 + z * (-1.0f / 3628800)))) - a * low));
  turn_quadrant(quadrant, c, s, cos, sin);
}

// Turns as a fraction of 2^64. The nearest quarter turn is taken off in integers, exactly.
ROPE_HOST_DEVICE void cos_sin_turns(uint64_t turns, float* cos, float* sin) {
  const uint32_t high = static_cast<uint32_t>(turns >> 32);
  const uint32_t quadrant = (high + 0x20000000u) >> 30;
  const int32_t rest = static_cast<int32_t>(high - (quadrant << 30));
  cos_sin_quadrant(static_cast<double>(rest) * (0x1p-30 * 1.57079632679489661923), quadrant, cos, sin);
}

// The same in double, within a few ulp.
ROPE_INLINE void cos_sin_turns_double(uint64_t turns, double* cos, double* sin) {
  const uint64_t quadrant = (turns + (uint64_t{1} << 61)) >> 62;
  const int64_t rest = static_cast<int64_t>(turns - (quadrant << 62));
  const double angle = static_cast<double>(rest) * (0x1p-62 * 1.57079632679489661923);
  const double c = __builtin_cos(angle), s = __builtin_sin(angle);
  const bool swap = (quadrant & 1) != 0;
  *cos = ((quadrant + 1) & 2) != 0 ? -(swap ? s : c) : (swap ? s : c);
  *sin = (quadrant & 2) != 0 ? -(swap ? c : s) : (swap ? c : s);
}

// A float32 angle in radians, rounded correctly but for one case in ten thousand: parity with Hugging Face is counted in last bits. The nearest
// quarter turn is taken off in double, with pi/2 in four parts, the first three of 15 bits: their products with up to 2^38 quarters are exact.
// The series are in double too (the next terms are below 1e-11).
ROPE_HOST_DEVICE void cos_sin_radians(float radians, float* cos, float* sin) {
  const double angle = static_cast<double>(radians);
  const double shifted = angle * 0.63661977236758134308 + 0x1.8p52;  // rounds to the nearest integer, which stands in the low bits
  const double quarters = shifted - 0x1.8p52;
  const double a =
      (((angle - quarters * 0x1.921cp+0) - quarters * 0x1.daap-15) - quarters * 0x1.10b4p-30) - quarters * 0x1.8469898cc517p-48;
  const double z = a * a;
  const double s = a + a * z * (-1.0 / 6 + z * (1.0 / 120 + z * (-1.0 / 5040 + z * (1.0 / 362880 + z * (-1.0 / 39916800)))));
  const double c = 1.0 + z * (-0.5 + z * (1.0 / 24 + z * (-1.0 / 720 + z * (1.0 / 40320 + z * (-1.0 / 3628800 + z * (1.0 / 479001600))))));
  uint64_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  turn_quadrant(static_cast<uint32_t>(bits), static_cast<float>(c), static_cast<float>(s), cos, sin);
}

// Whole and fractional positions on one axis, as turns: the whole part through the 64-bit frequency, exactly; the fraction, at most 1/2, through
// double turns, for the 64-bit frequency has lost its whole turns.
ROPE_HOST_DEVICE uint64_t turns_of_fraction(double fraction, double turns_per_position) {
  const double turns = fraction * turns_per_position;
  const double wrapped = turns - __builtin_rint(turns);
  return static_cast<uint64_t>(static_cast<int64_t>(wrapped * 0x1p63)) << 1;
}

}  // namespace rope
