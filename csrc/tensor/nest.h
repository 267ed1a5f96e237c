// The dimensions of a copy or a fill as loops. As elements may be visited in any order, the loops are sorted by the target's strides, and
// merged where both sides allow.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../include/rope.h"

namespace rope {

struct Loop {
  int64_t length;
  int64_t source_stride;  // of a fill: what the row-major index grows by
  int64_t target_stride;
};

// Outermost first.
struct Nest {
  Loop loops[ROPE_MAX_RANK];
  int size = 0;
};

// None of length 1 but for a single element, none that could be one with its neighbour.
inline Nest make_nest(int rank, const int64_t* shape, const int64_t* source_stride, const int64_t* target_stride) {
  Nest all, nest;
  for (int i = 0; i < rank; ++i) {
    if (shape[i] != 1) all.loops[all.size++] = {shape[i], source_stride[i], target_stride[i]};
  }
  for (int i = 1; i < all.size; ++i) {
    for (int j = i; j > 0 && all.loops[j - 1].target_stride < all.loops[j].target_stride; --j) std::swap(all.loops[j - 1], all.loops[j]);
  }
  for (int i = 0; i < all.size; ++i) {
    const Loop& loop = all.loops[i];
    Loop* const outer = nest.size > 0 ? &nest.loops[nest.size - 1] : nullptr;
    if (outer != nullptr && outer->source_stride == loop.source_stride * loop.length &&
        outer->target_stride == loop.target_stride * loop.length) {
      *outer = {outer->length * loop.length, loop.source_stride, loop.target_stride};
    } else {
      nest.loops[nest.size++] = loop;
    }
  }
  if (nest.size == 0) nest.loops[nest.size++] = {1, 1, 1};
  return nest;
}

// The loop along which the source is packed: the innermost one but for a transposition.
inline int packed_loop(const Nest& nest) {
  int packed = nest.size - 1;
  for (int i = 0; i < nest.size - 1; ++i) {
    const int64_t stride = nest.loops[i].source_stride;
    if (stride > 0 && stride < nest.loops[packed].source_stride) packed = i;
  }
  return packed;
}

}  // namespace rope
