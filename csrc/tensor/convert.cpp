// Planes are converted row by row by the loops of convert_rows.cpp, which want contiguous memory: strided elements pass through blocks on
// the stack. Between equal dtypes elements are moved bit for bit.
#include "convert.h"

#include <algorithm>
#include <cstring>

#include "../device/machine.h"

namespace rope {
namespace {

constexpr int64_t kBlock = 256;

const ConvertRows& convert_rows() {
  switch (machine().isa) {
#if defined(ROPE_HAVE_ISA_V4)
    case Isa::v4: return convert_rows_v4;
#endif
#if defined(ROPE_HAVE_ISA_V3)
    case Isa::v3: return convert_rows_v3;
#endif
    default: return convert_rows_baseline;
  }
}

template <int kSize>
void move_elements(const char* source, int64_t source_stride, char* target, int64_t target_stride, int64_t count) {
  for (int64_t i = 0; i < count; ++i) std::memcpy(target + i * target_stride * kSize, source + i * source_stride * kSize, kSize);
}

using Move = void (*)(const char* source, int64_t source_stride, char* target, int64_t target_stride, int64_t count);

Move mover(int64_t size) {
  switch (size) {
    case 1: return move_elements<1>;
    case 2: return move_elements<2>;
    case 4: return move_elements<4>;
    default: return move_elements<8>;
  }
}

}  // namespace

void convert_plane(int source_dtype, int target_dtype, const Plane& p) {
  const int64_t source_size = dtype_size(source_dtype), target_size = dtype_size(target_dtype);
  const int64_t from = p.source_column_stride, to = p.target_column_stride;
  const Move gather = mover(source_size), scatter = mover(target_size);
  const ConvertRow convert = convert_rows().row[source_dtype][target_dtype];
  for (int64_t row = 0; row < p.rows; ++row) {
    const char* const source = p.source + row * p.source_row_stride * source_size;
    char* const target = p.target + row * p.target_row_stride * target_size;
    if (from == 1 && to == 1) {
      convert(source, target, p.columns);
      continue;
    }
    if (source_dtype == target_dtype) {
      gather(source, from, target, to, p.columns);
      continue;
    }
    for (int64_t i = 0; i < p.columns; i += kBlock) {
      alignas(64) char gathered[kBlock * 8], converted[kBlock * 8];
      const int64_t count = std::min(kBlock, p.columns - i);
      const char* in = source + i * from * source_size;
      char* const out = target + i * to * target_size;
      if (from != 1) {
        gather(in, from, gathered, 1, count);
        in = gathered;
      }
      convert(in, to == 1 ? out : converted, count);
      if (to != 1) scatter(converted, 1, out, to, count);
    }
  }
}

}  // namespace rope
