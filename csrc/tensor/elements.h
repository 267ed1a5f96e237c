// Element types as classes, for conversions written once for host and device: load gives an element's value as a float, double or integer
// that holds it exactly, from rounds such a value to the element type.
#pragma once

#include <cstdint>

#include "../core/dtypes.h"

namespace rope {

// A float whose rounding to float16, bfloat16 or float8 is the value's own.
ROPE_INLINE float narrowable(float value) { return value; }
ROPE_INLINE float narrowable(double value) { return double_to_float_odd(value); }
ROPE_INLINE float narrowable(int32_t value) { return double_to_float_odd(static_cast<double>(value)); }
ROPE_INLINE float narrowable(int64_t value) { return double_to_float_odd(int64_to_double_odd(value)); }

struct Float64 {
  using Bits = double;
  ROPE_INLINE double load(double bits) { return bits; }
  ROPE_INLINE double from(double value) { return value; }
  ROPE_INLINE double from(float value) { return float_to_double(value); }
  ROPE_INLINE double from(int64_t value) { return static_cast<double>(value); }
  ROPE_INLINE double from(int32_t value) { return static_cast<double>(value); }
};

struct Float32 {
  using Bits = float;
  ROPE_INLINE float load(float bits) { return bits; }
  ROPE_INLINE float from(double value) { return double_to_float(value); }
  ROPE_INLINE float from(float value) { return value; }
  ROPE_INLINE float from(int64_t value) { return static_cast<float>(value); }
  ROPE_INLINE float from(int32_t value) { return static_cast<float>(value); }
};

struct Float16 {
  using Bits = uint16_t;
  ROPE_INLINE float load(uint16_t bits) { return half_to_float(bits); }
  template <class Value>
  ROPE_INLINE uint16_t from(Value value) {
    return float_to_half(narrowable(value));
  }
};

struct BFloat16 {
  using Bits = uint16_t;
  ROPE_INLINE float load(uint16_t bits) { return bfloat16_to_float(bits); }
  template <class Value>
  ROPE_INLINE uint16_t from(Value value) {
    return float_to_bfloat16(narrowable(value));
  }
};

struct Float8E4M3 {
  using Bits = uint8_t;
  ROPE_INLINE float load(uint8_t bits) { return e4m3_to_float(bits); }
  template <class Value>
  ROPE_INLINE uint8_t from(Value value) {
    return float_to_e4m3(narrowable(value));
  }
};

struct Float8E5M2 {
  using Bits = uint8_t;
  ROPE_INLINE float load(uint8_t bits) { return e5m2_to_float(bits); }
  template <class Value>
  ROPE_INLINE uint8_t from(Value value) {
    return float_to_e5m2(narrowable(value));
  }
};

struct Int64 {
  using Bits = int64_t;
  ROPE_INLINE int64_t load(int64_t bits) { return bits; }
  ROPE_INLINE int64_t from(double value) { return double_to_int64(value); }
  ROPE_INLINE int64_t from(float value) { return double_to_int64(static_cast<double>(value)); }
  ROPE_INLINE int64_t from(int64_t value) { return value; }
  ROPE_INLINE int64_t from(int32_t value) { return value; }
};

struct Int32 {
  using Bits = int32_t;
  ROPE_INLINE int32_t load(int32_t bits) { return bits; }
  ROPE_INLINE int32_t from(double value) { return double_to_int32(value); }
  ROPE_INLINE int32_t from(float value) { return double_to_int32(static_cast<double>(value)); }
  ROPE_INLINE int32_t from(int64_t value) { return int64_to_int32(value); }
  ROPE_INLINE int32_t from(int32_t value) { return value; }
};

struct UInt8 {
  using Bits = uint8_t;
  ROPE_INLINE int32_t load(uint8_t bits) { return bits; }
  ROPE_INLINE uint8_t from(double value) { return double_to_uint8(value); }
  ROPE_INLINE uint8_t from(float value) { return double_to_uint8(static_cast<double>(value)); }
  ROPE_INLINE uint8_t from(int64_t value) { return int64_to_uint8(value); }
  ROPE_INLINE uint8_t from(int32_t value) { return int64_to_uint8(value); }
};

}  // namespace rope
