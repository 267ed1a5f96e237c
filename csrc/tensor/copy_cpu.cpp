// rope_copy on the CPU. The dimensions are reordered by the target's strides, as the elements may be copied in any order, and merged where
// both sides allow; what is left is cut into tiles of two dimensions for the row loops. Where source and target disagree about the
// innermost dimension (a transposition) a tile is small and near square and passes through the stack, so that both sides see whole cache
// lines.
#include "copy.h"

#include <algorithm>

#include "../device/cpu_threads.h"
#include "convert.h"

namespace rope {
namespace {

constexpr int64_t kTile = 16384;       // elements of a tile where both sides run along the same dimension
constexpr int64_t kSideBytes = 128;    // of the square tile of a transposition
constexpr int64_t kShort = 16;         // a row of fewer elements is not worth a call
constexpr int64_t kPerThread = 65536;  // elements below which another thread is not worth waking

struct Loop {
  int64_t length;
  int64_t source_stride;
  int64_t target_stride;
};

struct Nest {
  Loop loops[ROPE_MAX_RANK];
  int size = 0;
};

// The loops of a copy, outermost first: none of length 1, none that could be one with its neighbour, the innermost not a short one.
Nest make_nest(const CopyParams& p) {
  Nest all, nest;
  for (int i = 0; i < p.rank; ++i) {
    if (p.shape[i] != 1) all.loops[all.size++] = {p.shape[i], p.source_stride[i], p.target_stride[i]};
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
  if (nest.size > 1 && nest.loops[nest.size - 1].length < kShort) {
    Loop* const end = nest.loops + nest.size;
    Loop* const longest = std::max_element(nest.loops, end, [](const Loop& a, const Loop& b) { return a.length < b.length; });
    std::rotate(longest, longest + 1, end);
  }
  return nest;
}

// Which loop is the tile's rows: for a transposition the one along which the source is packed, else the one around the columns.
int choose_rows(const Nest& nest) {
  const int columns = nest.size - 1;
  int packed = columns;
  for (int i = 0; i < columns; ++i) {
    const int64_t stride = nest.loops[i].source_stride;
    if (stride > 0 && stride < nest.loops[packed].source_stride) packed = i;
  }
  return packed;
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

void copy_tiles(const CopyParams& p, Nest nest) {
  const int packed = choose_rows(nest);
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
  const Nest nest = make_nest(p);
  if (nest.size == 0) {
    convert_plane(p.source_dtype, p.target_dtype, {p.source, p.target, 1, 1, 0, 1, 0, 1});
  } else if (nest.size == 1) {
    copy_line(p, nest.loops[0]);
  } else {
    copy_tiles(p, nest);
  }
  return {};
}

}  // namespace rope
