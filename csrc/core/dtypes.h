// Element types: sizes, names, and the conversions between them, one value at a time. All rounding is to nearest even, once: what cannot go
// through float32 without rounding twice (float64, int32 and int64 into narrower floats) goes through a float32 rounded to odd, which keeps
// in its last bit whether anything was lost. The functions are branch-free where they can be, so that compilers turn loops over them into
// vector code. Float8 saturates to its largest finite value, infinities too; float16 and bfloat16 overflow to infinity; NaN stays NaN with
// its sign and as much of its payload as fits. Host and device compute the same bits.
#pragma once

#include <cstdint>

#include "../include/rope.h"
#include "inline.h"

namespace rope {

constexpr int kDtypeCount = 9;

ROPE_INLINE bool dtype_valid(int dtype) { return dtype >= 0 && dtype < kDtypeCount; }

// Bytes of one element.
ROPE_INLINE int64_t dtype_size(int dtype) {
  constexpr int8_t sizes[kDtypeCount] = {8, 4, 2, 2, 1, 1, 8, 4, 1};
  return dtype_valid(dtype) ? sizes[dtype] : 0;
}

ROPE_INLINE const char* dtype_name(int dtype) {
  switch (dtype) {
    case ROPE_FLOAT64: return "float64";
    case ROPE_FLOAT32: return "float32";
    case ROPE_FLOAT16: return "float16";
    case ROPE_BFLOAT16: return "bfloat16";
    case ROPE_FLOAT8_E4M3FN: return "float8_e4m3fn";
    case ROPE_FLOAT8_E5M2: return "float8_e5m2";
    case ROPE_INT64: return "int64";
    case ROPE_INT32: return "int32";
    case ROPE_UINT8: return "uint8";
    default: return "an unknown dtype";
  }
}

ROPE_INLINE bool dtype_is_float8(int dtype) { return dtype == ROPE_FLOAT8_E4M3FN || dtype == ROPE_FLOAT8_E5M2; }

ROPE_INLINE bool dtype_is_integer(int dtype) { return dtype == ROPE_INT64 || dtype == ROPE_INT32 || dtype == ROPE_UINT8; }

// ---- bits ---------------------------------------------------------------------------------------------------------------------

ROPE_INLINE uint32_t float_bits(float value) { return __builtin_bit_cast(uint32_t, value); }
ROPE_INLINE float bits_float(uint32_t bits) { return __builtin_bit_cast(float, bits); }

// The casts between float32 and float64. CUDA's own make every NaN the same one, processors keep sign and payload.
ROPE_INLINE double float_to_double(float value) {
#if defined(__CUDA_ARCH__)
  const uint64_t bits = float_bits(value);
  const uint64_t nan = (bits & 0x80000000u) << 32 | uint64_t{0x7ff80000} << 32 | (bits & 0x7fffffu) << 29;
  if (value != value) return __builtin_bit_cast(double, nan);
#endif
  return static_cast<double>(value);
}

ROPE_INLINE float double_to_float(double value) {
#if defined(__CUDA_ARCH__)
  const uint64_t bits = __builtin_bit_cast(uint64_t, value);
  const uint64_t nan = (bits >> 32 & 0x80000000u) | 0x7fc00000u | (bits >> 29 & 0x7fffffu);
  if (value != value) return bits_float(static_cast<uint32_t>(nan));
#endif
  return static_cast<float>(value);
}

// The float32 next to `value` whose last bit says whether it is exact. Narrowing it further, to at most 22 bits, rounds as if from `value`.
ROPE_INLINE float double_to_float_odd(double value) {
  const float nearest = double_to_float(value);
  const double back = static_cast<double>(nearest);
  // Towards zero first: there, the last bit can stand for all that was cut off. Bits of floats count up with their magnitude.
  const uint32_t beyond = __builtin_fabs(back) > __builtin_fabs(value) ? 1u : 0u;
  const uint32_t inexact = back != value ? 1u : 0u;
  return bits_float((float_bits(nearest) - beyond) | inexact);
}

// A float64 with the same property for narrowing to float16, bfloat16 and float8.
ROPE_INLINE double int64_to_double_odd(int64_t value) {
  const uint64_t sign = value < 0 ? ~uint64_t{0} : 0;
  const uint64_t magnitude = (static_cast<uint64_t>(value) ^ sign) - sign;
  const uint64_t lost = magnitude & 0x7ff;
  const uint64_t odd = (magnitude & ~uint64_t{0x7ff}) | (lost != 0 ? 0x800 : 0);
  const uint64_t kept = magnitude >> 53 != 0 ? odd : magnitude;
  return static_cast<double>(static_cast<int64_t>((kept ^ sign) - sign));
}

// ---- float16 ------------------------------------------------------------------------------------------------------------------

ROPE_INLINE float half_to_float(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16;
  const uint32_t moved = (half & 0x7fffu) << 13;
  const uint32_t normal = moved + (112u << 23);                                               // the exponents' biases differ by 112
  const uint32_t subnormal = float_bits(bits_float(moved + (113u << 23)) - 0x1p-14f);         // 2^-14 (1 + m) - 2^-14, exactly
  const uint32_t special = (moved + (224u << 23)) | (moved > 0x0f800000u ? 0x00400000u : 0);  // infinity, or NaN made quiet
  return bits_float(sign | (moved >= 0x0f800000u ? special : moved < 0x00800000u ? subnormal : normal));
}

ROPE_INLINE uint16_t float_to_half(float value) {
  const uint32_t bits = float_bits(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1)) >> 13;
  const uint32_t subnormal = float_bits(bits_float(magnitude) + 0.5f) - float_bits(0.5f);  // at 0.5 a float32's last bit is 2^-24
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u | (magnitude >> 13 & 0x3ffu) : 0x7c00u;
  const uint32_t finite = magnitude < 113u << 23 ? subnormal : normal;
  return static_cast<uint16_t>(bits >> 16 & 0x8000u) | static_cast<uint16_t>(magnitude >= 0x477ff000u ? special : finite);  // 65520
}

ROPE_INLINE double half_to_double(uint16_t half) { return float_to_double(half_to_float(half)); }
ROPE_INLINE uint16_t double_to_half(double value) { return float_to_half(double_to_float_odd(value)); }

// ---- bfloat16 -----------------------------------------------------------------------------------------------------------------

ROPE_INLINE float bfloat16_to_float(uint16_t bfloat) { return bits_float(static_cast<uint32_t>(bfloat) << 16); }

ROPE_INLINE uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = float_bits(value);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  const uint32_t quiet = bits >> 16 | 0x40u;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

ROPE_INLINE double bfloat16_to_double(uint16_t bfloat) { return float_to_double(bfloat16_to_float(bfloat)); }
ROPE_INLINE uint16_t double_to_bfloat16(double value) { return float_to_bfloat16(double_to_float_odd(value)); }

// ---- float8_e4m3fn: no infinity, NaN is 0x7f, largest 448 ---------------------------------------------------------------------------

ROPE_INLINE float e4m3_to_float(uint8_t code) {
  const uint32_t sign = (code & 0x80u) << 24;
  const uint32_t moved = (code & 0x7fu) << 20;
  const uint32_t normal = moved + (120u << 23);
  const uint32_t subnormal = float_bits(bits_float(moved + (121u << 23)) - 0x1p-6f);
  return bits_float(sign | (moved == 0x07f00000u ? 0x7fc00000u : moved < 0x00800000u ? subnormal : normal));
}

ROPE_INLINE uint8_t float_to_e4m3(float value) {
  const uint32_t bits = float_bits(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - (120u << 23) + 0x7ffffu + (magnitude >> 20 & 1)) >> 20;
  const uint32_t subnormal = float_bits(bits_float(magnitude) + 0x1p14f) - float_bits(0x1p14f);  // there the last bit is 2^-9
  const uint32_t finite = magnitude < 121u << 23 ? subnormal : normal;
  const uint32_t saturated = magnitude > 0x43e00000u ? 0x7eu : finite;  // 448
  return static_cast<uint8_t>(bits >> 24 & 0x80u) | static_cast<uint8_t>(magnitude > 0x7f800000u ? 0x7fu : saturated);
}

ROPE_INLINE double e4m3_to_double(uint8_t code) { return float_to_double(e4m3_to_float(code)); }
ROPE_INLINE uint8_t double_to_e4m3(double value) { return float_to_e4m3(double_to_float_odd(value)); }

// ---- float8_e5m2: the upper half of a float16, largest finite value 57344 ------------------------------------------------------------

ROPE_INLINE float e5m2_to_float(uint8_t code) { return half_to_float(static_cast<uint16_t>(code << 8)); }

ROPE_INLINE uint8_t float_to_e5m2(float value) {
  const uint32_t bits = float_bits(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffffu + (magnitude >> 21 & 1)) >> 21;
  const uint32_t subnormal = float_bits(bits_float(magnitude) + 0x1p7f) - float_bits(0x1p7f);  // there the last bit is 2^-16
  const uint32_t finite = magnitude < 113u << 23 ? subnormal : normal;
  const uint32_t saturated = magnitude > 0x47600000u ? 0x7bu : finite;  // 57344
  return static_cast<uint8_t>(bits >> 24 & 0x80u) | static_cast<uint8_t>(magnitude > 0x7f800000u ? 0x7fu : saturated);
}

ROPE_INLINE double e5m2_to_double(uint8_t code) { return float_to_double(e5m2_to_float(code)); }
ROPE_INLINE uint8_t double_to_e5m2(double value) { return float_to_e5m2(double_to_float_odd(value)); }

// ---- integers: truncation towards zero, saturation, NaN is 0 --------------------------------------------------------------------------

ROPE_INLINE int64_t double_to_int64(double value) {
  if (value >= 0x1p63) return INT64_MAX;
  if (value < -0x1p63) return INT64_MIN;
  return value == value ? static_cast<int64_t>(value) : 0;
}

// Clamped first and then converted, so that the compiler may use the vector instruction. Comparisons with NaN are false: it becomes 0.
ROPE_INLINE int32_t double_to_int32(double value) {
  const double number = value == value ? value : 0.0;
  const double low = number > -0x1p31 ? number : -0x1p31;
  return static_cast<int32_t>(low < 0x1p31 - 1 ? low : 0x1p31 - 1);
}

ROPE_INLINE uint8_t double_to_uint8(double value) {
  const double low = value > 0.0 ? value : 0.0;
  return static_cast<uint8_t>(static_cast<int32_t>(low < 255.0 ? low : 255.0));
}

ROPE_INLINE int32_t int64_to_int32(int64_t value) {
  const int64_t low = value > INT32_MIN ? value : INT32_MIN;
  return static_cast<int32_t>(low < INT32_MAX ? low : INT32_MAX);
}

ROPE_INLINE uint8_t int64_to_uint8(int64_t value) {
  const int64_t low = value > 0 ? value : 0;
  return static_cast<uint8_t>(low < 255 ? low : 255);
}

}  // namespace rope
