// Standard normal numbers as a function of a seed and an index alone, the same bits on every machine and, with contraction off, on CUDA: a
// hash gives two uniform numbers for each pair of indices, Box and Muller's transform makes two normal ones of them. Logarithm, sine and
// cosine are short series here, because no two mathematical libraries agree about their last bit. Good to a few units in the last place of
// float64.
#pragma once

#include <cstdint>

#include "../core/inline.h"

namespace rope {

struct NormalPair {
  double even;
  double odd;
};

// Steele, Lea and Flood's finaliser of a 64-bit counter (splitmix64).
ROPE_HOST_DEVICE uint64_t mix_bits(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// ln of a normal positive number: ln(2^e m) = e ln 2 + 2 artanh((m - 1) / (m + 1)) with m in [sqrt(1/2), sqrt(2)].
ROPE_HOST_DEVICE double normal_log(double x) {
  const uint64_t bits = __builtin_bit_cast(uint64_t, x);
  const int64_t above = (bits & 0xfffffffffffffu) > 0x6a09e667f3bcdu ? 1 : 0;  // m > sqrt(2): halve it
  const int64_t exponent = static_cast<int64_t>(bits >> 52) - 1023 + above;
  const double m = __builtin_bit_cast(double, (bits & 0xfffffffffffffu) | static_cast<uint64_t>(1023 - above) << 52);
  const double z = (m - 1.0) / (m + 1.0), square = z * z;
  double sum = 0.0;
  for (int n = 21; n >= 3; n -= 2) sum = (sum + 1.0 / n) * square;  // square <= 0.0295
  return static_cast<double>(exponent) * 0x1.62e42fefa39efp-1 + 2.0 * (z + z * sum);
}

// Numbers 2 * pair and 2 * pair + 1 of a seed.
ROPE_HOST_DEVICE NormalPair normal_pair(uint64_t seed, uint64_t pair) {
  constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;
  const uint64_t counter = mix_bits(seed + kStep) + 2 * pair * kStep;
  const uint64_t first = mix_bits(counter + kStep), second = mix_bits(counter + 2 * kStep);
  const double radius = __builtin_sqrt(-2.0 * normal_log(static_cast<double>((first >> 11) + 1) * 0x1p-53));  // of (0, 1]

  // The upper two bits of `second` choose the quadrant, the next 51 a place within an eighth of a turn of its middle.
  const uint64_t quadrant = second >> 62;
  const double place = static_cast<double>(static_cast<int64_t>(second << 2) >> 13) * 0x1p-50;  // [-1, 1)
  const double angle = place * 0x1.921fb54442d18p-1, square = angle * angle;                    // pi / 4
  double cosine = 0.0, sine = 0.0;
  for (int n = 18; n >= 2; n -= 2) cosine = -(cosine + 1.0) * square * (1.0 / (n * (n - 1)));
  for (int n = 19; n >= 3; n -= 2) sine = -(sine + 1.0) * square * (1.0 / (n * (n - 1)));
  cosine += 1.0;
  sine = angle + angle * sine;
  const double x = quadrant & 1 ? -sine : cosine, y = quadrant & 1 ? cosine : sine;
  return quadrant & 2 ? NormalPair{-radius * x, -radius * y} : NormalPair{radius * x, radius * y};
}

}  // namespace rope
