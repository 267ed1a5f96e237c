// The inner loops of the rotation and of the pipeline around it, compiled once per instruction set (rotate_rows.cpp): angles of one token, and
// rows of heads.
#pragma once

#include <cstdint>

namespace rope {

// One token's angles on every axis. Tables are [axes][pairs] of one head, `axis_stride` apart.
struct AngleInput {
  const uint64_t* turns;
  const double* turns_per_position;
  const float* inv_freq;
  int64_t axis_stride;
  int64_t axes;
  int64_t pairs;
  const int64_t* whole;    // [axes]
  const double* fraction;  // [axes], null where all are 0
  const float* rounded;    // [axes], for `hf`
  double attention_factor;
  bool hf;
  bool backward;
};

// Heads of one token. in and out point at the rotary slice; cos and sin are what the angle functions wrote.
struct RowInput {
  const char* in;
  char* out;
  int64_t in_head, out_head;  // bytes from head to head
  int64_t heads;
  const void* cos;
  const void* sin;
  int64_t pairs;
  int64_t begin, end;  // pairs that turn
};

using AngleFunction = void (*)(const AngleInput& input, void* cos, void* sin);
using RowFunction = void (*)(const RowInput& input);

// By dtype: float16, bfloat16, float32, float64.
struct PairFunctions {
  RowFunction half[4], interleaved[4], to_half[4], from_half[4];
};

constexpr int kPartialSums = 8;

struct RotateRows {
  // Angles as float32, [pairs]; as float64 for float64 tensors.
  AngleFunction angles, angles_double;
  // float32 pairs spread for interleaved rows: cos c0 c0 c1 c1 ..., sin -s0 s0 -s1 s1 ...; [2 * pairs]
  void (*spread)(const float* cos, const float* sin, int64_t pairs, float* cos_spread, float* sin_spread);
  // tied: cos and sin are [pairs], of interleaved rows spread but for float64. full: [2 * pairs], what a pair's elements are multiplied by for
  // its first result and for its second: in the half layout; of interleaved rows as the results are, the sines of first ones negated.
  PairFunctions tied, full;
  // For a norm, by float32, float64. squares: the square of channel c is added to sums[c mod 8]. scale: x = x * factor * weight[c], rounded
  // after each product; without weights x * factor.
  void (*squares[2])(const void* row, int64_t count, double* sums);
  void (*scale[2])(void* row, int64_t count, double factor, const void* weight);
};

}  // namespace rope
