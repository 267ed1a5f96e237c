// Rotation loops. A vector of W floats is the only abstraction: load widens 16-bit elements to it, store rounds once. Multiplications and
// additions are never fused and tails do the same arithmetic one by one, so every instruction set gives the same bits.
// half: two streams, j and j + pairs. interleaved: one stream, x * (c c) + swapped x * (-s s). to_half, from_half: one stream to two and back.
#include "rotate_rows.h"

#include <cmath>
#include <cstring>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "../core/angle.h"
#include "../core/dtypes.h"

#if defined(__AVX512F__)
#define ROPE_LANES 16
#define ROPE_SWAP 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14
#define ROPE_EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ROPE_ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define ROPE_ZIP_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define ROPE_ZIP_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX2__)
#define ROPE_LANES 8
#define ROPE_SWAP 1, 0, 3, 2, 5, 4, 7, 6
#define ROPE_EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define ROPE_ODD 1, 3, 5, 7, 9, 11, 13, 15
#define ROPE_ZIP_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define ROPE_ZIP_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define ROPE_LANES 4
#define ROPE_SWAP 1, 0, 3, 2
#define ROPE_EVEN 0, 2, 4, 6
#define ROPE_ODD 1, 3, 5, 7
#define ROPE_ZIP_LOW 0, 4, 1, 5
#define ROPE_ZIP_HIGH 2, 6, 3, 7
#endif

namespace rope {
namespace {

constexpr int64_t W = ROPE_LANES;
typedef float Lanes __attribute__((vector_size(4 * W)));
typedef uint32_t Bits __attribute__((vector_size(4 * W)));
typedef uint16_t Halves __attribute__((vector_size(2 * W)));

// ---- elements ----------------------------------------------------------------------------------------------------------------------

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

ROPE_INLINE float load1(const float* p) { return *p; }
ROPE_INLINE float load1(const Float16* p) { return half_to_float(p->bits); }
ROPE_INLINE float load1(const BFloat16* p) { return bfloat16_to_float(p->bits); }
ROPE_INLINE void store1(float* p, float x) { *p = x; }
ROPE_INLINE void store1(Float16* p, float x) { p->bits = float_to_half(x); }
ROPE_INLINE void store1(BFloat16* p, float x) { p->bits = float_to_bfloat16(x); }

ROPE_INLINE Lanes load(const float* p) {
  Lanes x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
ROPE_INLINE void store(float* p, Lanes x) { std::memcpy(p, &x, sizeof x); }

ROPE_INLINE Lanes load(const BFloat16* p) {
  Halves h;
  std::memcpy(&h, p, sizeof h);
  const Bits bits = __builtin_convertvector(h, Bits) << 16;
  Lanes x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
ROPE_INLINE void store(BFloat16* p, Lanes x) {
  Bits bits;
  std::memcpy(&bits, &x, sizeof bits);
  const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Bits quiet = (bits >> 16) | 0x40;
  const Bits out = (bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded;
#if defined(__AVX2__) && !defined(__AVX512F__)
  // GCC 12 narrows one element at a time here; packing works within 128-bit lanes, so the quarters are put in order after it.
  const __m256i packed = _mm256_packus_epi32(reinterpret_cast<__m256i>(out), reinterpret_cast<__m256i>(out));
  const __m128i h = _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#else
  const Halves h = __builtin_convertvector(out, Halves);
#endif
  std::memcpy(p, &h, sizeof h);
}

#if defined(__AVX512F__)
ROPE_INLINE Lanes load(const Float16* p) {
  __m256i h;
  std::memcpy(&h, p, sizeof h);
  return reinterpret_cast<Lanes>(_mm512_maskz_cvtph_ps(0xffff, h));
}
ROPE_INLINE void store(Float16* p, Lanes x) {
  const __m256i h = _mm512_maskz_cvtps_ph(0xffff, reinterpret_cast<__m512>(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  std::memcpy(p, &h, sizeof h);
}
#elif defined(__F16C__)
ROPE_INLINE Lanes load(const Float16* p) {
  __m128i h;
  std::memcpy(&h, p, sizeof h);
  return reinterpret_cast<Lanes>(_mm256_cvtph_ps(h));
}
ROPE_INLINE void store(Float16* p, Lanes x) {
  const __m128i h = _mm256_cvtps_ph(reinterpret_cast<__m256>(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  std::memcpy(p, &h, sizeof h);
}
#else
ROPE_INLINE Lanes load(const Float16* p) {
  Lanes x;
  for (int64_t i = 0; i < W; ++i) x[i] = half_to_float(p[i].bits);
  return x;
}
ROPE_INLINE void store(Float16* p, Lanes x) {
  for (int64_t i = 0; i < W; ++i) p[i].bits = float_to_half(x[i]);
}
#endif

// ---- angles ------------------------------------------------------------------------------------------------------------------------

constexpr int64_t kChunk = 64;

// The phases of up to kChunk pairs from `begin`, in turns.
ROPE_INLINE void phases(const AngleInput& in, int64_t begin, int64_t count, uint64_t* out) {
  for (int64_t j = 0; j < count; ++j) out[j] = 0;
  for (int64_t axis = 0; axis < in.axes; ++axis) {
    const uint64_t position = static_cast<uint64_t>(in.whole[axis]);
    const uint64_t* const turns = in.turns + axis * in.axis_stride + begin;
    for (int64_t j = 0; j < count; ++j) out[j] += turns[j] * position;
    if (in.fraction == nullptr) continue;
    const double* const per_position = in.turns_per_position + axis * in.axis_stride + begin;
    for (int64_t j = 0; j < count; ++j) out[j] += turns_of_fraction(in.fraction[axis], per_position[j]);
  }
}

// Hugging Face's angles: float32 products, added in the order of the axes.
ROPE_INLINE void products(const AngleInput& in, int64_t begin, int64_t count, float* out) {
  for (int64_t axis = 0; axis < in.axes; ++axis) {
    const float* const inv_freq = in.inv_freq + axis * in.axis_stride + begin;
    const float position = in.rounded[axis];
    for (int64_t j = 0; j < count; ++j) out[j] = axis == 0 ? position * inv_freq[j] : out[j] + position * inv_freq[j];
  }
}

void angles(const AngleInput& in, void* cos_out, void* sin_out) {
  float* const cos = static_cast<float*>(cos_out);
  float* const sin = static_cast<float*>(sin_out);
  const float factor = static_cast<float>(in.attention_factor);
  const float sin_factor = in.backward ? -factor : factor;
  for (int64_t begin = 0; begin < in.pairs; begin += kChunk) {
    const int64_t count = in.pairs - begin < kChunk ? in.pairs - begin : kChunk;
    float c[kChunk], s[kChunk];
    if (in.hf) {
      float radians[kChunk];
      products(in, begin, count, radians);
      for (int64_t j = 0; j < count; ++j) cos_sin_radians(radians[j], &c[j], &s[j]);
    } else {
      uint64_t turns[kChunk];
      phases(in, begin, count, turns);
      for (int64_t j = 0; j < count; ++j) cos_sin_turns(turns[j], &c[j], &s[j]);
    }
    for (int64_t j = 0; j < count; ++j) {
      cos[begin + j] = c[j] * factor;
      sin[begin + j] = s[j] * sin_factor;
    }
  }
}

void angles_double(const AngleInput& in, void* cos_out, void* sin_out) {
  double* const cos = static_cast<double*>(cos_out);
  double* const sin = static_cast<double*>(sin_out);
  const double sin_factor = in.backward ? -in.attention_factor : in.attention_factor;
  for (int64_t begin = 0; begin < in.pairs; begin += kChunk) {
    const int64_t count = in.pairs - begin < kChunk ? in.pairs - begin : kChunk;
    double c[kChunk], s[kChunk];
    if (in.hf) {
      float radians[kChunk];
      products(in, begin, count, radians);
      for (int64_t j = 0; j < count; ++j) {
        c[j] = ::cos(static_cast<double>(radians[j]));
        s[j] = ::sin(static_cast<double>(radians[j]));
      }
    } else {
      uint64_t turns[kChunk];
      phases(in, begin, count, turns);
      for (int64_t j = 0; j < count; ++j) cos_sin_turns_double(turns[j], &c[j], &s[j]);
    }
    for (int64_t j = 0; j < count; ++j) {
      cos[begin + j] = c[j] * in.attention_factor;
      sin[begin + j] = s[j] * sin_factor;
    }
  }
}

void spread(const float* cos, const float* sin, int64_t pairs, float* cos_spread, float* sin_spread) {
  for (int64_t j = 0; j < pairs; ++j) {
    cos_spread[2 * j] = cos_spread[2 * j + 1] = cos[j];
    sin_spread[2 * j] = -sin[j];
    sin_spread[2 * j + 1] = sin[j];
  }
}

// ---- rows --------------------------------------------------------------------------------------------------------------------------

template <class T, class Body>
ROPE_INLINE void each_head(const RowInput& in, Body body) {
  for (int64_t head = 0; head < in.heads; ++head) {
    body(reinterpret_cast<const T*>(in.in + head * in.in_head), reinterpret_cast<T*>(in.out + head * in.out_head));
  }
}

template <class T, bool kFull>
void half(const RowInput& in) {
  const float* const cos = static_cast<const float*>(in.cos);
  const float* const sin = static_cast<const float*>(in.sin);
  const int64_t pairs = in.pairs, end = in.end, second = kFull ? pairs : 0;
  each_head<T>(in, [=, begin = in.begin](const T* from, T* to) ROPE_INLINE_LAMBDA {
    int64_t j = begin;
    for (; j + W <= end; j += W) {
      const Lanes x = load(from + j), y = load(from + j + pairs), c = load(cos + j), s = load(sin + j);
      const Lanes c2 = kFull ? load(cos + j + second) : c, s2 = kFull ? load(sin + j + second) : s;
      store(to + j, x * c - y * s);
      store(to + j + pairs, y * c2 + x * s2);
    }
    for (; j < end; ++j) {
      const float x = load1(from + j), y = load1(from + j + pairs);
      store1(to + j, x * cos[j] - y * sin[j]);
      store1(to + j + pairs, y * cos[j + second] + x * sin[j + second]);
    }
  });
}

template <class T>
void interleaved(const RowInput& in) {
  const float* const cos = static_cast<const float*>(in.cos);
  const float* const sin = static_cast<const float*>(in.sin);
  const int64_t end = 2 * in.end;
  each_head<T>(in, [=, begin = 2 * in.begin](const T* from, T* to) ROPE_INLINE_LAMBDA {
    int64_t i = begin;
    for (; i + W <= end; i += W) {
      const Lanes x = load(from + i);
      store(to + i, x * load(cos + i) + __builtin_shufflevector(x, x, ROPE_SWAP) * load(sin + i));
    }
    for (; i < end; i += 2) {
      const float x = load1(from + i), y = load1(from + i + 1);
      store1(to + i, x * cos[i] + y * sin[i]);
      store1(to + i + 1, y * cos[i + 1] + x * sin[i + 1]);
    }
  });
}

template <class T, bool kFull>
void to_half(const RowInput& in) {
  const float* const cos = static_cast<const float*>(in.cos);
  const float* const sin = static_cast<const float*>(in.sin);
  const int64_t pairs = in.pairs, end = in.end, second = kFull ? pairs : 0;
  each_head<T>(in, [=, begin = in.begin](const T* from, T* to) ROPE_INLINE_LAMBDA {
    int64_t j = begin;
    for (; j + W <= end; j += W) {
      const Lanes a = load(from + 2 * j), b = load(from + 2 * j + W), c = load(cos + j), s = load(sin + j);
      const Lanes x = __builtin_shufflevector(a, b, ROPE_EVEN), y = __builtin_shufflevector(a, b, ROPE_ODD);
      const Lanes c2 = kFull ? load(cos + j + second) : c, s2 = kFull ? load(sin + j + second) : s;
      store(to + j, x * c - y * s);
      store(to + j + pairs, y * c2 + x * s2);
    }
    for (; j < end; ++j) {
      const float x = load1(from + 2 * j), y = load1(from + 2 * j + 1);
      store1(to + j, x * cos[j] - y * sin[j]);
      store1(to + j + pairs, y * cos[j + second] + x * sin[j + second]);
    }
  });
}

template <class T, bool kFull>
void from_half(const RowInput& in) {
  const float* const cos = static_cast<const float*>(in.cos);
  const float* const sin = static_cast<const float*>(in.sin);
  const int64_t pairs = in.pairs, end = in.end, second = kFull ? pairs : 0;
  each_head<T>(in, [=, begin = in.begin](const T* from, T* to) ROPE_INLINE_LAMBDA {
    int64_t j = begin;
    for (; j + W <= end; j += W) {
      const Lanes x = load(from + j), y = load(from + j + pairs), c = load(cos + j), s = load(sin + j);
      const Lanes c2 = kFull ? load(cos + j + second) : c, s2 = kFull ? load(sin + j + second) : s;
      const Lanes u = x * c - y * s, v = y * c2 + x * s2;
      store(to + 2 * j, __builtin_shufflevector(u, v, ROPE_ZIP_LOW));
      store(to + 2 * j + W, __builtin_shufflevector(u, v, ROPE_ZIP_HIGH));
    }
    for (; j < end; ++j) {
      const float x = load1(from + j), y = load1(from + j + pairs);
      store1(to + 2 * j, x * cos[j] - y * sin[j]);
      store1(to + 2 * j + 1, y * cos[j + second] + x * sin[j + second]);
    }
  });
}

// float64: in at (j * in_step, j * in_step + in_partner), out and the angles likewise.
ROPE_INLINE void pairs_double(const RowInput& in, int64_t in_step, int64_t in_partner, int64_t out_step, int64_t out_partner,
                              int64_t angle_step, int64_t angle_partner) {
  const double* const cos = static_cast<const double*>(in.cos);
  const double* const sin = static_cast<const double*>(in.sin);
  each_head<double>(in, [=, begin = in.begin, end = in.end](const double* from, double* to) ROPE_INLINE_LAMBDA {
#pragma GCC ivdep
    for (int64_t j = begin; j < end; ++j) {
      const int64_t angle = j * angle_step;
      const double x = from[j * in_step], y = from[j * in_step + in_partner];
      to[j * out_step] = x * cos[angle] - y * sin[angle];
      to[j * out_step + out_partner] = y * cos[angle + angle_partner] + x * sin[angle + angle_partner];
    }
  });
}

void half_double(const RowInput& in) { pairs_double(in, 1, in.pairs, 1, in.pairs, 1, 0); }
void interleaved_double(const RowInput& in) { pairs_double(in, 2, 1, 2, 1, 1, 0); }
void to_half_double(const RowInput& in) { pairs_double(in, 2, 1, 1, in.pairs, 1, 0); }
void from_half_double(const RowInput& in) { pairs_double(in, 1, in.pairs, 2, 1, 1, 0); }
void half_double_full(const RowInput& in) { pairs_double(in, 1, in.pairs, 1, in.pairs, 1, in.pairs); }
void to_half_double_full(const RowInput& in) { pairs_double(in, 2, 1, 1, in.pairs, 1, in.pairs); }
void from_half_double_full(const RowInput& in) { pairs_double(in, 1, in.pairs, 2, 1, 1, in.pairs); }

// Sums only: of a difference and a sum side by side GCC 12 makes a fused vfmaddsub, -ffp-contract=off or not.
void interleaved_double_full(const RowInput& in) {
  const double* const cos = static_cast<const double*>(in.cos);
  const double* const sin = static_cast<const double*>(in.sin);
  each_head<double>(in, [=, begin = 2 * in.begin, end = 2 * in.end](const double* from, double* to) ROPE_INLINE_LAMBDA {
#pragma GCC ivdep
    for (int64_t i = begin; i < end; i += 2) {
      const double x = from[i], y = from[i + 1];
      to[i] = x * cos[i] + y * sin[i];
      to[i + 1] = y * cos[i + 1] + x * sin[i + 1];
    }
  });
}

// ---- norm ------------------------------------------------------------------------------------------------------------------------------

template <class T>
void squares(const void* row, int64_t count, double* sums) {
  const T* const x = static_cast<const T*>(row);
  double partial[kPartialSums];
  std::memcpy(partial, sums, sizeof partial);
  int64_t i = 0;
  for (; i + kPartialSums <= count; i += kPartialSums) {
    for (int64_t lane = 0; lane < kPartialSums; ++lane) {
      const double value = static_cast<double>(x[i + lane]);
      partial[lane] += value * value;
    }
  }
  for (; i < count; ++i) {
    const double value = static_cast<double>(x[i]);
    partial[i % kPartialSums] += value * value;
  }
  std::memcpy(sums, partial, sizeof partial);
}

template <class T>
void scale(void* row, int64_t count, double factor_double, const void* weights) {
  T* const __restrict x = static_cast<T*>(row);
  const T* const __restrict weight = static_cast<const T*>(weights);
  const T factor = static_cast<T>(factor_double);
  if (weight == nullptr) {
    for (int64_t i = 0; i < count; ++i) x[i] = x[i] * factor;
  } else {
    for (int64_t i = 0; i < count; ++i) x[i] = x[i] * factor * weight[i];
  }
}

}  // namespace

#define ROPE_JOIN(a, b) a##b
#define ROPE_NAME(isa) ROPE_JOIN(rotate_rows_, isa)

extern const RotateRows ROPE_NAME(ROPE_ISA);
const RotateRows ROPE_NAME(ROPE_ISA) = {
    angles,
    angles_double,
    spread,
    {{half<Float16, false>, half<BFloat16, false>, half<float, false>, half_double},
     {interleaved<Float16>, interleaved<BFloat16>, interleaved<float>, interleaved_double},
     {to_half<Float16, false>, to_half<BFloat16, false>, to_half<float, false>, to_half_double},
     {from_half<Float16, false>, from_half<BFloat16, false>, from_half<float, false>, from_half_double}},
    {{half<Float16, true>, half<BFloat16, true>, half<float, true>, half_double_full},
     {interleaved<Float16>, interleaved<BFloat16>, interleaved<float>, interleaved_double_full},
     {to_half<Float16, true>, to_half<BFloat16, true>, to_half<float, true>, to_half_double_full},
     {from_half<Float16, true>, from_half<BFloat16, true>, from_half<float, true>, from_half_double_full}},
    {squares<float>, squares<double>},
    {scale<float>, scale<double>},
};

}  // namespace rope
