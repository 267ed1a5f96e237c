// How copy.cu and fill.cu visit the elements of a nest on CUDA.
//
// A unit is what one access moves: an element, or several that follow one another on both sides. Units are numbered in the order of the
// loops, and neighbouring threads take neighbouring units. A thread has kFlight of them under way, kThreads apart: all are loaded before
// any is stored. Numbers have 32 bits, so that a division is a multiplication; the host cuts what has more units into pieces. Offsets have
// 64.
//
// What a unit is, and how it is loaded and stored, is the codec's matter, a kernel parameter:
//   Unit, kFlight
//   load(const int64_t (&offset)[kFlight], const bool (&in)[kFlight], Unit (&units)[kFlight])   the units that are in, from these offsets
//   store(const int64_t (&offset)[kFlight], const bool (&in)[kFlight], const Unit (&units)[kFlight])
#pragma once

#include <algorithm>
#include <cstdint>

#include "../device/cuda_launch.h"
#include "nest.h"

namespace rope {

constexpr uint32_t kThreads = 256;
constexpr int64_t kMaxUnits = int64_t{1} << 31;
constexpr int64_t kBlocksPerMultiprocessor = 32;

// ---- numbers to offsets ---------------------------------------------------------------------------------------------------------

// Divides numbers below 2^31 (Granlund and Montgomery): the quotient is (n + floor(n * magic / 2^32)) / 2^shift.
struct Divider {
  uint32_t divisor;
  uint32_t magic;
  uint32_t shift;
};

inline Divider make_divider(int64_t divisor) {
  const uint64_t d = static_cast<uint64_t>(divisor);
  uint32_t shift = 0;
  while ((uint64_t{1} << shift) < d) ++shift;
  return {static_cast<uint32_t>(d), static_cast<uint32_t>((((uint64_t{1} << shift) - d) << 32) / d + 1), shift};
}

struct Walk {
  struct Loop {
    Divider length;
    int64_t source_stride;
    int64_t target_stride;
  };
  Loop loops[ROPE_MAX_RANK];  // outermost first
  int size;
  uint32_t units;
  int64_t source;  // offsets of unit 0
  int64_t target;
};

// A nest of fewer than kMaxUnits.
inline Walk make_walk(const Nest& nest, int64_t source, int64_t target) {
  Walk walk{};
  walk.size = nest.size;
  walk.units = 1;
  walk.source = source;
  walk.target = target;
  for (int i = 0; i < nest.size; ++i) {
    const Loop& loop = nest.loops[i];
    walk.loops[i] = {make_divider(loop.length), loop.source_stride, loop.target_stride};
    walk.units *= static_cast<uint32_t>(loop.length);
  }
  return walk;
}

__device__ __forceinline__ uint32_t divide(uint32_t number, const Divider& by) { return (number + __umulhi(number, by.magic)) >> by.shift; }

__device__ __forceinline__ void locate(const Walk& walk, uint32_t number, int64_t* source, int64_t* target) {
  *source = walk.source;
  *target = walk.target;
  for (int i = walk.size - 1; i >= 0; --i) {
    const Walk::Loop& loop = walk.loops[i];
    const uint32_t outer = divide(number, loop.length);
    const int64_t index = number - outer * loop.length.divisor;
    *source += index * loop.source_stride;
    *target += index * loop.target_stride;
    number = outer;
  }
}

// ---- the kernel -----------------------------------------------------------------------------------------------------------------

template <class Codec>
__global__ void __launch_bounds__(kThreads) walk_units(const __grid_constant__ Walk walk, const __grid_constant__ Codec codec) {
  constexpr uint32_t kStep = kThreads * Codec::kFlight;
  for (uint32_t first = blockIdx.x * kStep + threadIdx.x; first < walk.units; first += gridDim.x * kStep) {
    int64_t source[Codec::kFlight], target[Codec::kFlight];
    bool in[Codec::kFlight];
#pragma unroll
    for (int i = 0; i < Codec::kFlight; ++i) {
      const uint32_t number = first + i * kThreads;
      in[i] = number < walk.units;
      locate(walk, number, &source[i], &target[i]);
    }
    typename Codec::Unit units[Codec::kFlight];
    codec.load(source, in, units);
    codec.store(target, in, units);
  }
}

// ---- launching ------------------------------------------------------------------------------------------------------------------

// Whether `by` units along the innermost loop can be one; then they are.
inline bool widen(Nest& nest, int64_t by) {
  Loop& inner = nest.loops[nest.size - 1];
  if (inner.source_stride != 1 || inner.target_stride != 1 || inner.length % by != 0) return false;
  for (int i = 0; i < nest.size - 1; ++i) {
    if (nest.loops[i].source_stride % by != 0 || nest.loops[i].target_stride % by != 0) return false;
  }
  for (int i = 0; i < nest.size - 1; ++i) {
    nest.loops[i].source_stride /= by;
    nest.loops[i].target_stride /= by;
  }
  inner.length /= by;
  if (inner.length == 1 && nest.size > 1) --nest.size;
  return true;
}

// The strides counted in bytes, or whatever else a unit of the two sides is worth.
inline Nest scaled(Nest nest, int64_t source_unit, int64_t target_unit) {
  for (int i = 0; i < nest.size; ++i) {
    nest.loops[i].source_stride *= source_unit;
    nest.loops[i].target_stride *= target_unit;
  }
  return nest;
}

// Calls run(piece, source, target) for pieces of fewer than kMaxUnits, with the offsets where each starts.
template <class Run>
void in_pieces(const Nest& nest, int64_t source, int64_t target, const Run& run) {
  int64_t units = 1;
  int longest = 0;
  for (int i = 0; i < nest.size; ++i) {
    units *= nest.loops[i].length;
    if (nest.loops[i].length > nest.loops[longest].length) longest = i;
  }
  if (units < kMaxUnits) return run(nest, source, target);
  const Loop& whole = nest.loops[longest];
  const int64_t half = whole.length / 2;
  Nest first = nest, second = nest;
  first.loops[longest].length = half;
  second.loops[longest].length = whole.length - half;
  in_pieces(first, source, target, run);
  in_pieces(second, source + half * whole.source_stride, target + half * whole.target_stride, run);
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline uint32_t grid_size(int64_t blocks, const CudaLaunch& launch) {
  return static_cast<uint32_t>(std::min(blocks, launch.multiprocessors * kBlocksPerMultiprocessor));
}

template <class Codec>
void launch_walk(const Nest& nest, const Codec& codec, const CudaLaunch& launch) {
  in_pieces(nest, 0, 0, [&](const Nest& piece, int64_t source, int64_t target) {
    const Walk walk = make_walk(piece, source, target);
    const uint32_t blocks = grid_size(ceil_div(walk.units, int64_t{kThreads} * Codec::kFlight), launch);
    launch_kernel("walk_units", walk_units<Codec>, {blocks, kThreads}, launch, walk, codec);
  });
}

}  // namespace rope
