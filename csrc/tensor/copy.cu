// rope_copy on CUDA, bit-identical to the CPU (compile with -fmad=false). Four ways:
//   - one contiguous run, same dtype: the driver's copy
//   - same dtype: bits are moved, in units as large as strides and addresses allow, up to 16 bytes
//   - another dtype: units of four elements where both sides are packed along the innermost loop, else of one
//   - a transposition, where the sides are packed along different loops: tiles of 32 x 32 units through shared memory, whose rows are
//     padded by one against bank conflicts. Neighbouring threads read along the source's packed loop and write along the target's:
//       block[ty + 8 i][tx] = source(row tx, column ty + 8 i), then target(row ty + 8 i, column tx) = block[tx][ty + 8 i]
#include "copy.h"

#include "units.cuh"
#include "walk.cuh"

namespace rope {
namespace {

constexpr int kSide = 32;                    // of a tile
constexpr int kTileRows = kThreads / kSide;  // rows or columns of a tile that a block reads or writes at once
constexpr int kShort = 16;                   // a loop of fewer units would leave half a tile empty

// ---- codecs ---------------------------------------------------------------------------------------------------------------------

template <int kBytes>
struct Move {
  using Unit = Raw<kBytes>;
  static constexpr int kFlight = 4;
  static constexpr bool kTiled = true;

  const char* source;
  char* target;

  __device__ void load(const int64_t (&offset)[kFlight], const bool (&in)[kFlight], Unit (&units)[kFlight]) const {
    load_raw(source, offset, in, units);
  }

  __device__ void store(const int64_t (&offset)[kFlight], const bool (&in)[kFlight], const Unit (&units)[kFlight]) const {
    store_raw(target, offset, in, units);
  }
};

template <class Value, int kUnit>
struct Convert {
  using Unit = Values<Value, kUnit>;
  static constexpr int kFlight = 4 / kUnit;
  static constexpr bool kTiled = kUnit == 1;

  const char* source;
  char* target;
  int source_dtype;
  int target_dtype;

  __device__ void load(const int64_t (&offset)[kFlight], const bool (&in)[kFlight], Unit (&units)[kFlight]) const {
    load_units(source_dtype, source, offset, in, units);
  }

  __device__ void store(const int64_t (&offset)[kFlight], const bool (&in)[kFlight], const Unit (&units)[kFlight]) const {
    store_units(target_dtype, target, offset, in, units);
  }
};

// ---- transposition --------------------------------------------------------------------------------------------------------------

struct Tiles {
  struct Side {
    Divider tiles;
    uint32_t length;
    int64_t source_stride;
    int64_t target_stride;
  };
  Walk outer;
  Side rows;
  Side columns;
  uint32_t count;
};

template <class Codec>
__global__ void __launch_bounds__(kThreads) walk_tiles(const __grid_constant__ Tiles tiles, const __grid_constant__ Codec codec) {
  using Unit = typename Codec::Unit;
  constexpr int kFlight = Codec::kFlight;
  static_assert(kFlight * kTileRows == kSide, "a thread's flight is its share of a tile");
  __shared__ Unit block[kSide][kSide + 1];  // [column][row]

  const Tiles::Side &rows = tiles.rows, &columns = tiles.columns;
  for (uint32_t tile = blockIdx.x; tile < tiles.count; tile += gridDim.x) {
    const uint32_t down = divide(tile, columns.tiles), outer = divide(down, rows.tiles);
    const uint32_t first_column = (tile - down * columns.tiles.divisor) * kSide, first_row = (down - outer * rows.tiles.divisor) * kSide;
    int64_t source, target;
    locate(tiles.outer, outer, &source, &target);

    int64_t offset[kFlight];
    bool in[kFlight];
    Unit units[kFlight];
#pragma unroll
    for (int i = 0; i < kFlight; ++i) {
      const uint32_t row = first_row + threadIdx.x, column = first_column + threadIdx.y + i * kTileRows;
      in[i] = row < rows.length && column < columns.length;
      offset[i] = source + row * rows.source_stride + column * columns.source_stride;
    }
    codec.load(offset, in, units);
#pragma unroll
    for (int i = 0; i < kFlight; ++i) {
      if (in[i]) block[threadIdx.y + i * kTileRows][threadIdx.x] = units[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kFlight; ++i) {
      const uint32_t row = first_row + threadIdx.y + i * kTileRows, column = first_column + threadIdx.x;
      in[i] = row < rows.length && column < columns.length;
      offset[i] = target + row * rows.target_stride + column * columns.target_stride;
      if (in[i]) units[i] = block[threadIdx.x][threadIdx.y + i * kTileRows];
    }
    codec.store(offset, in, units);
    __syncthreads();
  }
}

Tiles::Side make_side(const Loop& loop) {
  return {make_divider(ceil_div(loop.length, kSide)), static_cast<uint32_t>(loop.length), loop.source_stride, loop.target_stride};
}

// The innermost loop is the columns, loop `row` the rows.
template <class Codec>
void launch_tiles(const Nest& nest, int row, const Codec& codec, const CudaLaunch& launch) {
  in_pieces(nest, 0, 0, [&](const Nest& piece, int64_t source, int64_t target) {
    Nest outer = piece;
    std::rotate(outer.loops + row, outer.loops + row + 1, outer.loops + outer.size);
    outer.size -= 2;  // without columns and rows
    Tiles tiles{};
    tiles.outer = make_walk(outer, source, target);
    tiles.rows = make_side(piece.loops[row]);
    tiles.columns = make_side(piece.loops[piece.size - 1]);
    tiles.count = tiles.outer.units * tiles.rows.tiles.divisor * tiles.columns.tiles.divisor;
    launch_kernel("walk_tiles", walk_tiles<Codec>, {grid_size(tiles.count, launch), dim3(kSide, kTileRows)}, launch, tiles, codec);
  });
}

// ---- which way ------------------------------------------------------------------------------------------------------------------

template <class Codec>
void launch_copy(Nest nest, const Codec& codec, const CudaLaunch& launch) {
  const int packed = packed_loop(nest), inner = nest.size - 1;
  if constexpr (Codec::kTiled) {
    if (packed != inner && nest.loops[packed].length >= kShort && nest.loops[inner].length >= kShort) {
      return launch_tiles(nest, packed, codec, launch);
    }
  }
  // A short packed loop goes inside: its units are read together, and what neighbouring threads write meets in the L2.
  if (packed != inner && nest.loops[packed].length < kShort) {
    std::rotate(nest.loops + packed, nest.loops + packed + 1, nest.loops + nest.size);
  }
  launch_walk(nest, codec, launch);
}

bool aligned(const CopyParams& p, int64_t source_bytes, int64_t target_bytes) {
  return reinterpret_cast<uintptr_t>(p.source) % source_bytes == 0 && reinterpret_cast<uintptr_t>(p.target) % target_bytes == 0;
}

void move(const CopyParams& p, Nest nest, const CudaLaunch& launch) {
  int64_t size = dtype_size(p.source_dtype);
  const Loop& inner = nest.loops[nest.size - 1];
  if (nest.size == 1 && inner.source_stride == 1 && inner.target_stride == 1) {
    const size_t bytes = static_cast<size_t>(inner.length * size);
    return cuda_check(cudaMemcpyAsync(p.target, p.source, bytes, cudaMemcpyDeviceToDevice, launch.stream), "cudaMemcpyAsync");
  }
  while (size < 16 && aligned(p, 2 * size, 2 * size) && widen(nest, 2)) size *= 2;
  nest = scaled(nest, size, size);
  switch (size) {
    case 1: return launch_copy(nest, Move<1>{p.source, p.target}, launch);
    case 2: return launch_copy(nest, Move<2>{p.source, p.target}, launch);
    case 4: return launch_copy(nest, Move<4>{p.source, p.target}, launch);
    case 8: return launch_copy(nest, Move<8>{p.source, p.target}, launch);
    default: return launch_copy(nest, Move<16>{p.source, p.target}, launch);
  }
}

template <class Value>
void convert(const CopyParams& p, Nest nest, const CudaLaunch& launch) {
  const int64_t source_size = dtype_size(p.source_dtype), target_size = dtype_size(p.target_dtype);
  if (aligned(p, std::min(4 * source_size, int64_t{16}), std::min(4 * target_size, int64_t{16})) && widen(nest, 4)) {
    const Convert<Value, 4> codec{p.source, p.target, p.source_dtype, p.target_dtype};
    launch_copy(scaled(nest, 4 * source_size, 4 * target_size), codec, launch);
  } else {
    const Convert<Value, 1> codec{p.source, p.target, p.source_dtype, p.target_dtype};
    launch_copy(scaled(nest, source_size, target_size), codec, launch);
  }
}

}  // namespace

void copy_cuda(const CopyParams& p, const CudaLaunch& launch) {
  const Nest nest = make_nest(p.rank, p.shape, p.source_stride, p.target_stride);
  if (p.source_dtype == p.target_dtype) return move(p, nest, launch);
  switch (p.source_dtype) {
    case ROPE_INT64: return convert<int64_t>(p, nest, launch);
    case ROPE_INT32:
    case ROPE_FLOAT64: return convert<double>(p, nest, launch);
    default: return convert<float>(p, nest, launch);
  }
}

}  // namespace rope
