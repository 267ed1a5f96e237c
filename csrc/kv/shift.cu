// rope_shift on CUDA: three kernels, each after the other; shift.h says what they do.
// Layout: forget: a thread for each page. claim: a block for each request, its threads going over the entries. turn: block x has an entry of the
//   table, y a part of its page's places, z a group of pairs, which is all of them unless a head is very wide or turns by frequencies of its
//   own. There blockDim is (lanes, rows): a lane owns two chunks of 16 bytes of a row of a head, pairs of them, and a thread takes rows, two
//   at once (of float8 one), as far apart as the block is high. Rows that do not lie on 16 bytes take chunks of one element.
// Roles: the threads of a turning block first make the group's cos and sin, a pair each, in shared memory; one barrier; then each keeps those of
//   its lane in registers for all its rows.
// Protocol: faults are left in the mailbox by who claims. A page that is claimed twice is nobody's from then on, in whatever order.
#include <algorithm>

#include "../core/dtypes.h"
#include "../core/status.h"
#include "../device/ptx.cuh"
#include "../rope/angle_table.h"
#include "../rope/angles.cuh"
#include "../rope/chunks.cuh"
#include "shift.h"

namespace rope {
namespace {

constexpr int kBlock = 256;
constexpr int kClaimers = 128;
constexpr int kChunkBytes = 16;
constexpr int kGroup = 1024;           // pairs of a block, at most: 8 KB of shared memory
constexpr int64_t kPart = 32 << 10;    // bytes of a page that a block turns, as a rule
constexpr int64_t kMaxBlocks = 65535;  // of a grid's second and third dimension

// ---- claims -----------------------------------------------------------------------------------------------------------------------------

__global__ void __launch_bounds__(kBlock) forget_kernel(int32_t* owners, int64_t pages) {
  ptx::griddepcontrol_wait();
  ptx::griddepcontrol_launch_dependents();
  const int64_t step = static_cast<int64_t>(gridDim.x) * kBlock;
  for (int64_t page = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x; page < pages; page += step) owners[page] = kNobody;
}

__global__ void __launch_bounds__(kClaimers) claim_kernel(const __grid_constant__ ShiftTable t, CudaMailbox* mailbox) {
  ptx::griddepcontrol_wait();
  ptx::griddepcontrol_launch_dependents();
  const int64_t request = blockIdx.x;
  PageRange pages;
  rope_fault fault;
  if (!read_claims(t, request, &pages, &fault) && threadIdx.x == 0) report_fault(mailbox, CudaOperation::shift, fault);
  for (int64_t entry = pages.begin + threadIdx.x; entry < pages.end; entry += kClaimers) {
    int64_t page;
    if (!read_page(t, request, entry, &page, &fault)) {
      report_fault(mailbox, CudaOperation::shift, fault);
    } else if (atomicCAS(&t.owners[page], kNobody, static_cast<int32_t>(request)) != kNobody) {
      atomicExch(&t.owners[page], kShared);
      report_fault(mailbox, CudaOperation::shift, shared_page(t, request, entry, page));
    }
  }
}

// ---- turning ----------------------------------------------------------------------------------------------------------------------------

struct ShiftKernelParams {
  ShiftTable table;
  char* cache;                                     // of head 0, its rotary slice
  int64_t page_stride, place_stride, head_stride;  // bytes
  int32_t heads;                                   // that a group's pairs are the same for: all, or 1
  int32_t pairs;
  int32_t part;         // places
  int32_t head_groups;  // groups of pairs in a head
  int32_t groups;       // of all heads
  bool interleaved;     // what kernels of chunks of one element go by
  AngleParams angles;
};
static_assert(sizeof(ShiftKernelParams) <= 4096);

// Two codes of float8 at once, by the hardware where it can.
__device__ __forceinline__ float2 widen_two(const E4m3* two) {
#if __CUDA_ARCH__ >= 890
  uint16_t codes;
  uint32_t halves;
  memcpy(&codes, two, sizeof codes);
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(codes));
  return __half22float2(reinterpret_cast<const __half2&>(halves));
#else
  return {e4m3_to_float(two[0].code), e4m3_to_float(two[1].code)};
#endif
}
__device__ __forceinline__ float2 widen_two(const E5m2* two) {  // the upper halves of float16
  return {__half2float(__ushort_as_half(static_cast<uint16_t>(two[0].code << 8))),
          __half2float(__ushort_as_half(static_cast<uint16_t>(two[1].code << 8)))};
}

template <class T, int N>
__device__ __forceinline__ void widen_chunk(const Chunk<T, N>& chunk, float (&out)[N]) {
  if constexpr (sizeof(T) > 1) {
    widen(chunk, out);
  } else if constexpr (N > 1) {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      const float2 two = widen_two(&chunk.at[i]);
      out[i] = two.x, out[i + 1] = two.y;
    }
  } else {
    const T two[2] = {chunk.at[0], chunk.at[0]};
    out[0] = widen_two(two).x;
  }
}

// Wide interleaved rows are cut into halves too, so that neighbouring lanes read neighbouring chunks. Chunk a has a lane's first pairs then, b
// the others; else a has the first members of its pairs, b the second.
template <int N, bool interleaved>
constexpr bool kWithin = interleaved && N > 1;  // pairs lie within a chunk

template <int N, bool interleaved>
__device__ __forceinline__ int pair_of(int pairs, int lane, int i) {
  if constexpr (!kWithin<N, interleaved>) return lane * N + i;
  return i < N / 2 ? lane * (N / 2) + i : pairs / 2 + lane * (N / 2) + i - N / 2;
}

template <bool within, int which, class E, int N>
__device__ __forceinline__ E& member(E (&a)[N], E (&b)[N], int i) {
  if constexpr (within) return 2 * i < N ? a[2 * i + which] : b[2 * i - N + which];
  return which == 0 ? a[i] : b[i];
}

template <bool within, class T, int N>
__device__ __forceinline__ void turn(Chunk<T, N>& a, Chunk<T, N>& b, const float (&cos)[N], const float (&sin)[N], bool any_still) {
  float in_a[N], in_b[N], out_a[N], out_b[N];
  widen_chunk(a, in_a);
  widen_chunk(b, in_b);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float x = member<within, 0>(in_a, in_b, i), y = member<within, 1>(in_a, in_b, i);
    member<within, 0>(out_a, out_b, i) = x * cos[i] - y * sin[i];
    member<within, 1>(out_a, out_b, i) = y * cos[i] + x * sin[i];
  }
  Chunk<T, N> u = narrow<T, N>(out_a), v = narrow<T, N>(out_b);
  if (any_still) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (!stands_still(cos[i], sin[i])) continue;
      member<within, 0>(u.at, v.at, i) = member<within, 0>(a.at, b.at, i);
      member<within, 1>(u.at, v.at, i) = member<within, 1>(a.at, b.at, i);
    }
  }
  a = u, b = v;
}

// The rows of a block, [places, heads], with the lanes of a group.
template <class T, int N, bool interleaved>
__device__ __forceinline__ void turn_rows(const ShiftKernelParams& p, char* place, int rows, int first_lane, int lanes,
                                          const float* cos_shared, const float* sin_shared, bool any_still) {
  constexpr int kFlight = N < 16 ? 2 : 1;  // registers
  for (int lane = threadIdx.x; lane < lanes; lane += blockDim.x) {
    float cos[N], sin[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      cos[i] = cos_shared[lane * N + i];
      sin[i] = sin_shared[lane * N + i];
    }
    const int at = first_lane + lane;
    const int to_a = N == 1 && p.interleaved ? 2 * at : at * N, to_b = N == 1 && p.interleaved ? 2 * at + 1 : p.pairs + at * N;
    for (int first = threadIdx.y; first < rows; first += kFlight * blockDim.y) {
      T* row[kFlight];
      Chunk<T, N> a[kFlight], b[kFlight];
#pragma unroll
      for (int r = 0; r < kFlight; ++r) {
        const int number = min(first + r * static_cast<int>(blockDim.y), rows - 1);
        row[r] = reinterpret_cast<T*>(place + number / p.heads * p.place_stride + number % p.heads * p.head_stride);
        a[r] = load<T, N>(row[r] + to_a);
        b[r] = load<T, N>(row[r] + to_b);
      }
#pragma unroll
      for (int r = 0; r < kFlight; ++r) {
        if (first + r * static_cast<int>(blockDim.y) >= rows) break;
        turn<kWithin<N, interleaved>>(a[r], b[r], cos, sin, any_still);
        store(row[r] + to_a, a[r]);
        store(row[r] + to_b, b[r]);
      }
    }
  }
}

template <class T, int N, bool interleaved>
__global__ void __launch_bounds__(kBlock, N < 16 ? 2 : 1) turn_kernel(const __grid_constant__ ShiftKernelParams p) {
  __shared__ float cos_shared[kGroup], sin_shared[kGroup];
  ptx::griddepcontrol_wait();
  ptx::griddepcontrol_launch_dependents();
  const Turn it = find_turn(p.table, blockIdx.x);
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * p.part, end = min(begin + p.part, it.places);
  if (begin >= end) return;
  const Place delta{it.delta, 0, static_cast<float>(it.delta)};
  const uint64_t* const table = table_of(p.angles);
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  for (int group = blockIdx.z; group < p.groups; group += gridDim.z) {
    const int head = group / p.head_groups, first_lane = group % p.head_groups * (kGroup / N);
    const int lanes = min(p.pairs / N - first_lane, kGroup / N);
    bool still = false;
    for (int i = thread; i < lanes * N; i += threads) {
      const int index = head * p.pairs + pair_of<N, interleaved>(p.pairs, first_lane + i / N, i % N);
      float cos, sin;
      Token none{};
      cos_sin_of_pair<Where::ids>(p.angles, table, &none, delta, index, table[index], &cos, &sin);
      cos_shared[i] = cos;
      sin_shared[i] = sin;
      still |= stands_still(cos, sin);
    }
    const bool any_still = __syncthreads_or(still);
    char* const place = p.cache + it.page * p.page_stride + begin * p.place_stride + head * p.head_stride;
    turn_rows<T, N, interleaved>(p, place, static_cast<int>(end - begin) * p.heads, first_lane, lanes, cos_shared, sin_shared, any_still);
    __syncthreads();
  }
}

// ---- launching --------------------------------------------------------------------------------------------------------------------------

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether every chunk of every row lies on 16 bytes.
bool is_wide(const ShiftParams& p) {
  const int64_t n = kChunkBytes / dtype_size(p.dtype);
  return (p.frequencies->pairs | p.rotary_offset | p.page_stride | p.place_stride | p.head_stride) % n == 0 &&
         reinterpret_cast<uintptr_t>(p.cache) % kChunkBytes == 0;
}

template <class T>
auto kernel_of(bool wide, bool interleaved) {
  constexpr int N = kChunkBytes / sizeof(T);
  if (wide) return interleaved ? turn_kernel<T, N, true> : turn_kernel<T, N, false>;
  return turn_kernel<T, 1, false>;  // in any order
}

auto kernel_for(int dtype, bool wide, bool interleaved) {
  switch (dtype) {
    case ROPE_FLOAT32: return kernel_of<float>(wide, interleaved);
    case ROPE_FLOAT16: return kernel_of<__half>(wide, interleaved);
    case ROPE_BFLOAT16: return kernel_of<__nv_bfloat16>(wide, interleaved);
    case ROPE_FLOAT8_E4M3FN: return kernel_of<E4m3>(wide, interleaved);
    default: return kernel_of<E5m2>(wide, interleaved);
  }
}

void check_limit(int64_t value, int64_t most, const char* argument, const char* what) {
  if (value <= most) return;
  fail(ROPE_ARGUMENT, argument, text("of at most %lld %s on CUDA", static_cast<long long>(most), what),
       text("%lld", static_cast<long long>(value)));
}

KernelShape early(unsigned blocks, unsigned threads) {
  KernelShape shape;
  shape.grid = blocks;
  shape.block = threads;
  shape.early = true;
  return shape;
}

void launch_turn(const ShiftParams& p, const CudaLaunch& launch) {
  const Frequencies& f = *p.frequencies;
  const int64_t size = dtype_size(p.dtype), page_size = p.table.table.page_size;
  const bool wide = is_wide(p);
  const int64_t n = wide ? kChunkBytes / size : 1;

  ShiftKernelParams k;
  set_angle_params(&k.angles, {}, 0, "cache", p.frequencies, p.hf, p.backward, launch);
  k.angles.cos_factor = 1;  // the attention factor was applied when the keys were cached
  k.angles.sin_factor = p.backward ? -1 : 1;
  k.table = p.table;
  k.interleaved = p.interleaved;
  k.cache = p.cache + p.rotary_offset * size;
  k.page_stride = p.page_stride * size;
  k.place_stride = p.place_stride * size;
  k.head_stride = p.head_stride * size;
  k.heads = f.heads > 0 ? 1 : static_cast<int32_t>(p.heads);
  k.pairs = static_cast<int32_t>(f.pairs);
  k.head_groups = static_cast<int32_t>(ceil_div(f.pairs, kGroup));
  k.groups = static_cast<int32_t>(f.rows() * k.head_groups);
  const int64_t place_bytes = k.heads * std::min<int64_t>(f.pairs, kGroup) * 2 * size;
  k.part = static_cast<int32_t>(std::clamp(kPart / place_bytes, ceil_div(page_size, kMaxBlocks), page_size));

  const int64_t lanes = std::min<int64_t>(std::min<int64_t>(f.pairs, kGroup) / n, kBlock);
  KernelShape shape = early(0, 0);
  shape.grid = dim3(static_cast<unsigned>(p.table.ids.count), static_cast<unsigned>(ceil_div(page_size, k.part)),
                    static_cast<unsigned>(std::min<int64_t>(k.groups, kMaxBlocks)));
  shape.block = dim3(static_cast<unsigned>(lanes), static_cast<unsigned>(kBlock / lanes));
  launch_kernel("turn_kernel", kernel_for(p.dtype, wide, p.interleaved), shape, launch, k);
}

}  // namespace

void shift_cuda(const ShiftParams& p, const CudaLaunch& launch) {
  check_limit(p.table.ids.count, INT32_MAX, "page_indices", "page ids");
  check_limit(p.table.table.page_size, 1 << 30, "cache", "places a page");
  check_limit(p.heads, 65535, "cache", "heads");
  check_limit(p.head_dim, 1 << 26, "cache", "channels a head");
  const int64_t requests = p.table.table.indptr.count - 1, pages = p.table.pages;
  if (pages > 0) {
    const int64_t blocks = std::min<int64_t>(ceil_div(pages, kBlock), launch.multiprocessors * 16);
    launch_kernel("forget_kernel", forget_kernel, early(static_cast<unsigned>(blocks), kBlock), launch, p.table.owners, pages);
  }
  if (requests == 0) return;
  launch_kernel("claim_kernel", claim_kernel, early(static_cast<unsigned>(requests), kClaimers), launch, p.table, launch.mailbox);
  if (pages > 0 && p.heads > 0 && p.table.ids.count > 0) launch_turn(p, launch);
}

}  // namespace rope
