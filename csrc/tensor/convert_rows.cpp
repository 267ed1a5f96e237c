// The 81 conversions of contiguous elements. load gives an element's value as a float, double or integer that holds it exactly, from rounds
// that to the target. All are plain loops that the compiler turns into vector code, but float16 goes through the processor's own instructions
// where it has them. Compiled once for each instruction set: nothing here may have external linkage but the table.
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "convert.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

#define ROPE_JOIN2(a, b) a##b
#define ROPE_JOIN(a, b) ROPE_JOIN2(a, b)

namespace rope {
namespace {

// A float whose rounding to float16, bfloat16 or float8 is the value's own.
ROPE_INLINE float narrowable(float value) { return value; }
ROPE_INLINE float narrowable(double value) { return double_to_float_odd(value); }
ROPE_INLINE float narrowable(int32_t value) { return double_to_float_odd(static_cast<double>(value)); }
ROPE_INLINE float narrowable(int64_t value) { return double_to_float_odd(int64_to_double_odd(value)); }

struct Float64 {
  using Bits = double;
  ROPE_INLINE double load(double bits) { return bits; }
  template <class Value>
  ROPE_INLINE double from(Value value) {
    return static_cast<double>(value);
  }
};

struct Float32 {
  using Bits = float;
  ROPE_INLINE float load(float bits) { return bits; }
  template <class Value>
  ROPE_INLINE float from(Value value) {
    return static_cast<float>(value);
  }
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

template <class Source, class Target>
ROPE_INLINE void convert_plain(const typename Source::Bits* __restrict source, typename Target::Bits* __restrict target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) target[i] = Target::from(Source::load(source[i]));
}

#if defined(__F16C__)

constexpr int64_t kBlock = 64;
constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

ROPE_INLINE void halves_to_floats(const uint16_t* source, float* target) {
  for (int64_t i = 0; i < kBlock; i += 8) {
    _mm256_storeu_ps(target + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i))));
  }
}

ROPE_INLINE void floats_to_halves(const float* source, uint16_t* target) {
  for (int64_t i = 0; i < kBlock; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i), _mm256_cvtps_ph(_mm256_loadu_ps(source + i), kNearest));
  }
}

// Blocks of float16 by way of floats; the scalar functions give the same bits for the rest.
template <class Source, class Target>
ROPE_INLINE void convert_row(const typename Source::Bits* __restrict source, typename Target::Bits* __restrict target, int64_t count) {
  int64_t i = 0;
  if constexpr (std::is_same_v<Source, Float16> && std::is_same_v<Target, Float32>) {
    for (; i + kBlock <= count; i += kBlock) halves_to_floats(source + i, target + i);
  } else if constexpr (std::is_same_v<Source, Float16>) {
    for (; i + kBlock <= count; i += kBlock) {
      float values[kBlock];
      halves_to_floats(source + i, values);
      convert_plain<Float32, Target>(values, target + i, kBlock);
    }
  } else if constexpr (std::is_same_v<Source, Float32> && std::is_same_v<Target, Float16>) {
    for (; i + kBlock <= count; i += kBlock) floats_to_halves(source + i, target + i);
  } else if constexpr (std::is_same_v<Target, Float16>) {
    for (; i + kBlock <= count; i += kBlock) {
      float values[kBlock];
      for (int64_t j = 0; j < kBlock; ++j) values[j] = narrowable(Source::load(source[i + j]));
      floats_to_halves(values, target + i);
    }
  }
  convert_plain<Source, Target>(source + i, target + i, count - i);
}

#else

template <class Source, class Target>
ROPE_INLINE void convert_row(const typename Source::Bits* __restrict source, typename Target::Bits* __restrict target, int64_t count) {
  convert_plain<Source, Target>(source, target, count);
}

#endif

template <class Source, class Target>
void convert(const void* source, void* target, int64_t count) {
  if constexpr (std::is_same_v<Source, Target>) {
    std::memcpy(target, source, static_cast<size_t>(count) * sizeof(typename Source::Bits));
  } else {
    convert_row<Source, Target>(static_cast<const typename Source::Bits*>(source), static_cast<typename Target::Bits*>(target), count);
  }
}

template <class Source, class... Targets>
constexpr void fill_row(ConvertRow* row) {
  int i = 0;
  ((row[i++] = convert<Source, Targets>), ...);
}

// In the order of rope_dtype.
template <class... Elements>
constexpr ConvertRows make_table() {
  ConvertRows table{};
  int i = 0;
  (fill_row<Elements, Elements...>(table.row[i++]), ...);
  return table;
}

}  // namespace

constinit const ConvertRows ROPE_JOIN(convert_rows_, ROPE_ISA) =
    make_table<Float64, Float32, Float16, BFloat16, Float8E4M3, Float8E5M2, Int64, Int32, UInt8>();

}  // namespace rope
