// rope_fill on CUDA, bit-identical to the CPU (compile with -fmad=false): the walk of rope_copy with no source.
//
// A constant becomes bits of the target's dtype on the host; they are stored in units as large as strides and address allow, up to 16
// bytes. Else the offset of a unit on the source's side is the row-major index of its first element, from which a thread makes the values,
// as doubles or int64: units of four elements where the target is packed, of one else. Two elements share a pair of normal numbers, which
// units of one compute twice.
#include "fill.h"

#include "convert.h"
#include "normal.h"
#include "units.cuh"
#include "walk.cuh"

namespace rope {
namespace {

template <int kBytes>
struct Constant {
  using Unit = Raw<kBytes>;
  static constexpr int kFlight = 4;

  char* target;
  Unit bits;

  __device__ void load(const int64_t (&)[kFlight], const bool (&)[kFlight], Unit (&units)[kFlight]) const {
#pragma unroll
    for (int i = 0; i < kFlight; ++i) units[i] = bits;
  }

  __device__ void store(const int64_t (&offset)[kFlight], const bool (&in)[kFlight], const Unit (&units)[kFlight]) const {
    store_raw(target, offset, in, units);
  }
};

// Of doubles arange and normal numbers, of int64 arange alone.
template <class Value, int kUnit>
struct Series {
  using Unit = Values<Value, kUnit>;
  static constexpr int kFlight = 4 / kUnit;

  char* target;
  int dtype;
  FillKind kind;
  Value start;
  Value step;
  uint64_t seed;

  __device__ void load(const int64_t (&index)[kFlight], const bool (&)[kFlight], Unit (&units)[kFlight]) const {
    if constexpr (std::is_same_v<Value, double>) {
      if (kind == FillKind::normal) return make_normal(index, units);
    }
#pragma unroll
    for (int i = 0; i < kFlight; ++i) {
#pragma unroll
      for (int j = 0; j < kUnit; ++j) units[i].at[j] = start + step * static_cast<Value>(index[i] + j);
    }
  }

  __device__ void store(const int64_t (&offset)[kFlight], const bool (&in)[kFlight], const Unit (&units)[kFlight]) const {
    store_units(dtype, target, offset, in, units);
  }

  __device__ __forceinline__ void make_normal(const int64_t (&index)[kFlight], Unit (&units)[kFlight]) const {
#pragma unroll
    for (int i = 0; i < kFlight; ++i) {
      const uint64_t first = static_cast<uint64_t>(index[i]);
      if constexpr (kUnit == 1) {
        const NormalPair pair = normal_pair(seed, first / 2);
        units[i].at[0] = first % 2 == 0 ? pair.even : pair.odd;
      } else {  // first is a multiple of kUnit
#pragma unroll
        for (int j = 0; j < kUnit; j += 2) {
          const NormalPair pair = normal_pair(seed, (first + j) / 2);
          units[i].at[j] = pair.even;
          units[i].at[j + 1] = pair.odd;
        }
      }
    }
  }
};

template <int kBytes>
void store_constant(const FillParams& p, const Nest& nest, const char* bits, const CudaLaunch& launch) {
  Constant<kBytes> codec{p.target, {}};
  __builtin_memcpy(&codec.bits, bits, kBytes);
  launch_walk(scaled(nest, 0, kBytes), codec, launch);
}

void fill_constant(const FillParams& p, const CudaLaunch& launch) {
  int64_t size = dtype_size(p.dtype);
  char bits[16];
  convert_plane(ROPE_FLOAT64, p.dtype, {reinterpret_cast<const char*>(&p.start), bits, 1, 16 / size, 0, 0, 0, 1});
  Nest nest = make_nest(p.rank, p.shape, p.target_stride, p.target_stride);
  while (size < 16 && reinterpret_cast<uintptr_t>(p.target) % (2 * size) == 0 && widen(nest, 2)) size *= 2;
  switch (size) {
    case 1: return store_constant<1>(p, nest, bits, launch);
    case 2: return store_constant<2>(p, nest, bits, launch);
    case 4: return store_constant<4>(p, nest, bits, launch);
    case 8: return store_constant<8>(p, nest, bits, launch);
    default: return store_constant<16>(p, nest, bits, launch);
  }
}

template <class Value>
void fill_series(const FillParams& p, Value start, Value step, const CudaLaunch& launch) {
  int64_t index_stride[ROPE_MAX_RANK], elements = 1;
  for (int i = p.rank - 1; i >= 0; --i) {
    index_stride[i] = elements;
    elements *= p.shape[i];
  }
  Nest nest = make_nest(p.rank, p.shape, index_stride, p.target_stride);
  const int64_t size = dtype_size(p.dtype);
  if (reinterpret_cast<uintptr_t>(p.target) % std::min(4 * size, int64_t{16}) == 0 && widen(nest, 4)) {
    launch_walk(scaled(nest, 4, 4 * size), Series<Value, 4>{p.target, p.dtype, p.kind, start, step, p.seed}, launch);
  } else {
    launch_walk(scaled(nest, 1, size), Series<Value, 1>{p.target, p.dtype, p.kind, start, step, p.seed}, launch);
  }
}

}  // namespace

void fill_cuda(const FillParams& p, const CudaLaunch& launch) {
  switch (p.kind) {
    case FillKind::constant: return fill_constant(p, launch);
    case FillKind::integer_arange: return fill_series<int64_t>(p, p.integer_start, p.integer_step, launch);
    default: return fill_series<double>(p, p.start, p.step, launch);
  }
}

}  // namespace rope
