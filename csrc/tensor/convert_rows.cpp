// The 81 conversions of contiguous elements, as plain loops that the compiler turns into vector code, but for float16 and float32, which
// have instructions of their own on many processors. Compiled once for each instruction set: nothing here may have external linkage but the
// table.
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "convert.h"
#include "elements.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

#define ROPE_JOIN2(a, b) a##b
#define ROPE_JOIN(a, b) ROPE_JOIN2(a, b)

namespace rope {
namespace {

constexpr int64_t kBlock = 256;  // elements between two stages

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
