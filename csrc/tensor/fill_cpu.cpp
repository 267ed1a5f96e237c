// rope_fill on the CPU: blocks of values by row-major index, converted into their places by the row loops of rope_copy.
#include "fill.h"

#include <algorithm>

#include "../device/cpu_threads.h"
#include "convert.h"
#include "normal.h"

namespace rope {
namespace {

constexpr int64_t kBlock = 1024;
constexpr int64_t kPerThread = 65536;  // elements below which another thread is not worth waking
constexpr int64_t kNormalPerThread = 4096;

// The target in row-major order, outermost first, with the dimensions merged that follow one another in memory.
struct Place {
  int64_t length[ROPE_MAX_RANK];
  int64_t stride[ROPE_MAX_RANK];
  int rank = 0;
};

Place make_place(const FillParams& p) {
  Place place;
  for (int i = 0; i < p.rank; ++i) {
    const int64_t length = p.shape[i], stride = p.target_stride[i];
    if (length == 1) continue;
    if (place.rank > 0 && place.stride[place.rank - 1] == stride * length) {
      place.length[place.rank - 1] *= length;
      place.stride[place.rank - 1] = stride;
    } else {
      place.length[place.rank] = length;
      place.stride[place.rank++] = stride;
    }
  }
  if (place.rank == 0) {
    place.length[0] = place.stride[0] = 1;
    place.rank = 1;
  }
  return place;
}

// A block's values, of the dtype that holds them exactly.
union Values {
  double floats[kBlock];
  int64_t integers[kBlock];
};

void make_arange(const FillParams& p, int64_t begin, int64_t count, double* values) {
  for (int64_t i = 0; i < count; ++i) values[i] = p.start + p.step * static_cast<double>(begin + i);
}

void make_integer_arange(const FillParams& p, int64_t begin, int64_t count, int64_t* values) {
  for (int64_t i = 0; i < count; ++i) values[i] = p.integer_start + p.integer_step * (begin + i);
}

void make_normal(const FillParams& p, int64_t begin, int64_t count, double* values) {
  for (int64_t i = 0; i < count;) {
    const uint64_t index = static_cast<uint64_t>(begin + i);
    const NormalPair pair = normal_pair(p.seed, index / 2);
    if (index % 2 == 0) values[i++] = pair.even;
    if (i < count) values[i++] = pair.odd;
  }
}

// Puts a block of values in elements begin .. begin + count - 1: run after run of the innermost dimension.
void scatter(const FillParams& p, const Place& place, int64_t begin, int64_t count, const void* values, int dtype) {
  const int inner = place.rank - 1;
  const int64_t length = place.length[inner], stride = place.stride[inner];
  const char* source = static_cast<const char*>(values);
  for (int64_t done = 0; done < count;) {
    const int64_t column = (begin + done) % length, run = std::min(length - column, count - done);
    int64_t rest = (begin + done) / length, offset = column * stride;
    for (int i = inner - 1; i >= 0; --i) {
      offset += rest % place.length[i] * place.stride[i];
      rest /= place.length[i];
    }
    convert_plane(dtype, p.dtype, {source, p.target + offset * dtype_size(p.dtype), 1, run, 0, 1, 0, stride});
    source += run * dtype_size(dtype);
    done += run;
  }
}

}  // namespace

rope_fault fill_cpu(const FillParams& p) {
  const Place place = make_place(p);
  int64_t elements = 1;
  for (int i = 0; i < place.rank; ++i) elements *= place.length[i];

  // A constant is converted once; its blocks are then copied as they are.
  Values constant;
  if (p.kind == FillKind::constant) {
    char* const block = reinterpret_cast<char*>(&constant);
    convert_plane(ROPE_FLOAT64, p.dtype, {reinterpret_cast<const char*>(&p.start), block, 1, kBlock, 0, 0, 0, 1});
  }
  parallel_for(elements, p.kind == FillKind::normal ? kNormalPerThread : kPerThread, [&](int64_t begin, int64_t end) {
    Values values;
    for (int64_t i = begin; i < end; i += kBlock) {
      const int64_t count = std::min(kBlock, end - i);
      switch (p.kind) {
        case FillKind::constant: scatter(p, place, i, count, &constant, p.dtype); break;
        case FillKind::arange:
          make_arange(p, i, count, values.floats);
          scatter(p, place, i, count, &values, ROPE_FLOAT64);
          break;
        case FillKind::integer_arange:
          make_integer_arange(p, i, count, values.integers);
          scatter(p, place, i, count, &values, ROPE_INT64);
          break;
        case FillKind::normal:
          make_normal(p, i, count, values.floats);
          scatter(p, place, i, count, &values, ROPE_FLOAT64);
          break;
      }
    }
  });
  return {};
}

}  // namespace rope
