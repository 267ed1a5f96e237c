// The 81 conversions of contiguous elements. load gives an element's value as a float, double or integer that holds it exactly, from rounds
// that to the target. Plain loops that the compiler turns into vector code, but for float16 and float32, which have instructions of their
// own on many processors. Compiled once for each instruction set: nothing here may have external linkage but the table.
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

constexpr int64_t kBlock = 256;  // elements between two stages

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

// The first stage of narrowing what is no float32.
struct Narrowable {
  using Bits = float;
  template <class Value>
  ROPE_INLINE float from(Value value) {
    return narrowable(value);
  }
};

// Not inlined: the conversions of two stages share these.
template <class Source, class Target>
__attribute__((noinline)) void convert_direct(const typename Source::Bits* __restrict source, typename Target::Bits* __restrict target,
                                              int64_t count) {
  int64_t i = 0;
#if defined(__F16C__)
  if constexpr (std::is_same_v<Source, Float16> && std::is_same_v<Target, Float32>) {
    for (; i + 8 <= count; i += 8) {
      _mm256_storeu_ps(target + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i))));
    }
  }
  if constexpr (std::is_same_v<Source, Float32> && std::is_same_v<Target, Float16>) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    for (; i + 8 <= count; i += 8) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i), _mm256_cvtps_ph(_mm256_loadu_ps(source + i), kNearest));
    }
  }
#endif
  for (; i < count; ++i) target[i] = Target::from(Source::load(source[i]));
}

template <class Element>
constexpr bool kNarrow = std::is_same_v<Element, Float16> || std::is_same_v<Element, BFloat16> || std::is_same_v<Element, Float8E4M3> ||
                         std::is_same_v<Element, Float8E5M2>;

// In two stages where an end is a narrow float, but not the other float32: 32 loops serve all pairs.
template <class Source, class Target>
void convert(const void* from, void* to, int64_t count) {
  const auto* source = static_cast<const typename Source::Bits*>(from);
  auto* target = static_cast<typename Target::Bits*>(to);
  if constexpr (std::is_same_v<Source, Target>) {
    std::memcpy(target, source, static_cast<size_t>(count) * sizeof *source);
  } else if constexpr ((!kNarrow<Source> && !kNarrow<Target>) || std::is_same_v<Source, Float32> || std::is_same_v<Target, Float32>) {
    convert_direct<Source, Target>(source, target, count);
  } else {
    using Stage = std::conditional_t<kNarrow<Source>, Float32, Narrowable>;
    for (int64_t i = 0; i < count; i += kBlock) {
      float values[kBlock];
      const int64_t block = count - i < kBlock ? count - i : kBlock;
      convert_direct<Source, Stage>(source + i, values, block);
      convert_direct<Float32, Target>(values, target + i, block);
    }
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
