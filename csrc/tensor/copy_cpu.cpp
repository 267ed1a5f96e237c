// rope_copy on the CPU. The dimensions, sorted and merged, are cut into tiles of two for the row loops. Where source and target disagree
// about the innermost dimension (a transposition) a tile is small and near square and passes through the stack, so that both sides see
// whole cache lines.
#include "copy.h"

#include <algorithm>

#include "../device/cpu_threads.h"
#include "convert.h"
#include "nest.h"

namespace rope {
namespace {

constexpr int64_t kTile = 16384;       // elements of a tile where both sides run along the same dimension
constexpr int64_t kSideBytes = 128;    // of the square tile of a transposition
constexpr int64_t kShort = 16;         // a row of fewer elements is not worth a call
constexpr int64_t kPerThread = 65536;  // elements below which another thread is not worth waking

// The loops of a copy, with a longer one innermost where that would be a short one.
Nest make_copy_nest(const CopyParams& p) {
  Nest nest = make_nest(p.rank, p.shape, p.source_stride, p.target_stride);
  if (nest.size > 1 && nest.loops[nest.size - 1].length < kShort) {
    Loop* const end = nest.loops + nest.size;
    Loop* const longest = std::max_element(nest.loops, end, [](const Loop& a, const Loop& b) { return a.length < b.length; });
    std::rotate(longest, longest + 1, end);
  }
  return nest;
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// target[row][column] = source[row][column] by way of a block laid out [column][row]: read along the source's packed rows, written along
// the target's columns.
void copy_transposed(int source_dtype, int target_dtype, const Plane& p) {
  alignas(64) char block[kSideBytes * kSideBytes];
  convert_plane(source_dtype, target_dtype, {p.source, block, p.columns, p.rows, p.source_column_stride, p.source_row_stride, p.rows, 1});
  convert_plane(target_dtype, target_dtype, {block, p.target, p.rows, p.columns, 1, p.rows, p.target_row_stride, p.target_column_stride});
}

void copy_line(const CopyParams& p, const Loop& loop) {
  const int64_t source_step = loop.source_stride * dtype_size(p.source_dtype),
                target_step = loop.target_stride * dtype_size(p.target_dtype);
  parallel_for(loop.length, kPerThread, [&](int64_t begin, int64_t end) {
    convert_plane(
        p.source_dtype, p.target_dtype,
        {p.source + begin * source_step, p.target + begin * target_step, 1, end - begin, 0, loop.source_stride, 0, loop.target_stride});
  });
}

// The tile's rows are the loop along which the source is packed for a transposition, else the one around the columns.
void copy_tiles(const CopyParams& p, Nest nest) {
  const int packed = packed_loop(nest);
  const bool transposed = packed != nest.size - 1;
  if (transposed) std::rotate(nest.loops + packed, nest.loops + packed + 1, nest.loops + nest.size - 1);
  const Loop columns = nest.loops[nest.size - 1], rows = nest.loops[nest.size - 2];
  const int outer = nest.size - 2;

  const int64_t source_size = dtype_size(p.source_dtype), target_size = dtype_size(p.target_dtype);
  const int64_t side = kSideBytes / std::max(source_size, target_size), area = transposed ? side * side : kTile;
  const int64_t tile_columns = std::min(columns.length, transposed ? std::max(side, area / rows.length) : area);
  const int64_t tile_rows = std::min(rows.length, area / tile_columns);
  const int64_t across = ceil_div(columns.length, tile_columns), down = ceil_div(rows.length, tile_rows);
  int64_t tiles = across * down;
  for (int i = 0; i < outer; ++i) tiles *= nest.loops[i].length;

  const auto copy_tile = transposed && rows.length >= kShort ? copy_transposed : convert_plane;
  parallel_for(tiles, ceil_div(kPerThread, tile_columns * tile_rows), [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t column = tile % across * tile_columns, row = tile / across % down * tile_rows;
      int64_t source = column * columns.source_stride + row * rows.source_stride;
      int64_t target = column * columns.target_stride + row * rows.target_stride;
      int64_t rest = tile / across / down;
      for (int i = outer - 1; i >= 0; --i) {
        const int64_t index = rest % nest.loops[i].length;
        rest /= nest.loops[i].length;
        source += index * nest.loops[i].source_stride;
        target += index * nest.loops[i].target_stride;
      }
      copy_tile(p.source_dtype, p.target_dtype,
                {p.source + source * source_size, p.target + target * target_size, std::min(tile_rows, rows.length - row),
                 std::min(tile_columns, columns.length - column), rows.source_stride, columns.source_stride, rows.target_stride,
                 columns.target_stride});
    }
  });
}

}  // namespace

rope_fault copy_cpu(const CopyParams& p) {
  const Nest nest = make_copy_nest(p);
  if (nest.size == 1) {
    copy_line(p, nest.loops[0]);
  } else {
    copy_tiles(p, nest);
  }
  return {};
}

}  // namespace rope
