// The rotation's kernel: load, rotate, store; every byte is read once and written once.
// Layout: blockDim is (lanes, heads, tokens). A lane owns two chunks of a row, 16 bytes each: both members of N pairs, or 2 N channels that
//   pass through. A thread holds its lane's cos and sin in registers for Rows heads, all on their way at once. Grid: x tokens, y heads beyond
//   one block's, z lanes beyond one block's. Rows that do not lie on 16 bytes take chunks of one element (N = 1); the rest is the same.
// Roles: every thread sets its rows going; while they travel, a token's threads turn its position into cos and sin, a pair each, in shared
//   memory; one barrier; then each lane picks up its own.
// Protocol: before griddepcontrol.wait addresses are computed and rows prefetched into the L2, nothing else. A token out of range is not
//   written, nor, where indptr is out of order, one of no sound request; the first fault met is left in the mailbox.
// Compiled with -fmad=false: products and sums are rounded one by one, as on the CPU, so that both give the same bits.
#pragma once

#include <type_traits>

#include "../device/ptx.cuh"
#include "angles.cuh"
#include "chunks.cuh"
#include "rotate_launch.h"

namespace rope {

template <int N>
constexpr int kThreads = N == 1 ? kNarrowThreads : kWideThreads;
// Blocks of that many threads on a multiprocessor, at least: as many as registers can be had for without spills.
template <int N, int Rows, Order In, Order Out, Where where>
constexpr int kBlocks = N == 1                                                ? 1
                        : where == Where::any                                 ? 2
                        : where == Where::derived && (Rows == 1 || In != Out) ? 3
                                                                              : 4;

// ---- rows ----------------------------------------------------------------------------------------------------------------------------

// Interleaved rows that stay interleaved are cut into halves too, so that neighbouring lanes read neighbouring chunks; where the order
// changes, or a chunk is one element, a lane's interleaved chunks follow one another.
template <int N, Order In, Order Out>
constexpr bool kApart = In == Order::interleaved && Out == Order::interleaved && N > 1;

struct Places {  // of a lane's chunks in the row, elements
  int a, b;
};

template <int N, Order order, bool apart>
__device__ __forceinline__ Places places_of(const RotateKernelParams& p, int lane, bool interleaved) {
  if (N == 1 && interleaved) return {p.rotary_offset + 2 * lane, p.rotary_offset + 2 * lane + 1};
  if (order == Order::halves || apart) return {p.rotary_offset + lane * N, p.rotary_offset + p.pairs + lane * N};
  return {p.rotary_offset + 2 * N * lane, p.rotary_offset + 2 * N * lane + N};
}

// Chunks outside the rotary slice are counted through.
template <int N>
__device__ __forceinline__ int place_of_passing(const RotateKernelParams& p, int chunk) {
  return chunk * N < p.rotary_offset ? chunk * N : chunk * N + 2 * p.pairs;
}

template <int N, bool apart>
__device__ __forceinline__ int pair_of(const RotateKernelParams& p, int lane, int i) {
  if (apart) return i < N / 2 ? lane * (N / 2) + i : p.pairs / 2 + lane * (N / 2) + i - N / 2;
  return lane * N + i;
}

// Member 0 or 1 of pair i in chunks a and b: element i of each, or elements 2i and 2i + 1 of both end to end.
template <Order order, class E, int N>
__device__ __forceinline__ E& member(E (&a)[N], E (&b)[N], int i, int which) {
  if constexpr (order == Order::halves) {
    return which == 0 ? a[i] : b[i];
  } else {
    return 2 * i + which < N ? a[2 * i + which] : b[2 * i + which - N];
  }
}

template <Order In, Order Out, class T, int N, class Real>
__device__ __forceinline__ void rotate(Chunk<T, N>& a, Chunk<T, N>& b, const Real (&cos)[N], const Real (&sin)[N], bool any_still) {
  Real in_a[N], in_b[N], out_a[N], out_b[N];
  widen(a, in_a), widen(b, in_b);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const Real x = member<In>(in_a, in_b, i, 0), y = member<In>(in_a, in_b, i, 1);
    member<Out>(out_a, out_b, i, 0) = x * cos[i] - y * sin[i];
    member<Out>(out_a, out_b, i, 1) = y * cos[i] + x * sin[i];
  }
  Chunk<T, N> u = narrow<T, N>(out_a), v = narrow<T, N>(out_b);
  if (any_still) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (!is_still(cos[i])) continue;
      member<Out>(u.at, v.at, i, 0) = member<In>(a.at, b.at, i, 0);
      member<Out>(u.at, v.at, i, 1) = member<In>(a.at, b.at, i, 1);
    }
  }
  a = u, b = v;
}

// Which entry of the table the block's `entry` of cos and sin comes from, -1 if none.
template <int N, bool apart, Where where>
__device__ __forceinline__ int index_of(const RotateKernelParams& p, int entry) {
  const int lane = static_cast<int>(blockIdx.z * blockDim.x) + entry / N;
  if (entry >= static_cast<int>(blockDim.x) * N || lane >= p.turning) return -1;
  return pair_of<N, apart>(p, lane, entry % N) + (where == Where::any && p.head_rows ? static_cast<int>(blockIdx.y) * p.pairs : 0);
}

template <class T, int N, int Rows, Order In, Order Out, Where where>
__device__ __noinline__ void rotate_disordered(const RotateKernelParams& p);

// ---- the kernel ------------------------------------------------------------------------------------------------------------------------

// A block's share. disordered: its indptr has been found out of order, nothing has been written yet, and it starts anew.
template <class T, int N, int Rows, Order In, Order Out, Where where, bool disordered>
__device__ __forceinline__ void rotate_block(const RotateKernelParams& p) {
  using Real = std::conditional_t<std::is_same_v<T, double>, double, float>;
  using Stride = std::conditional_t<where == Where::any, uint64_t, uint32_t>;
  constexpr bool apart = kApart<N, In, Out>;
  extern __shared__ __align__(16) char shared[];  // Real [blockDim.z][cos, sin][blockDim.x * N]

  // Beyond the last lane, token and head a thread reads what the last ones read and writes nothing: no load waits for a branch.
  const int first_lane = blockIdx.z * blockDim.x, lane = first_lane + threadIdx.x;
  const bool turns = lane < p.turning;
  const int chunk = 2 * (lane - p.turning);
  const bool has_a = turns || chunk < p.passing, has_b = turns || chunk + 1 < p.passing;
  Places from = places_of<N, In, apart>(p, lane, p.in_interleaved), to = places_of<N, Out, apart>(p, lane, p.out_interleaved);
  if (!turns) from = to = {has_a ? place_of_passing<N>(p, chunk) : 0, has_b ? place_of_passing<N>(p, chunk + 1) : 0};

  const uint32_t tokens = p.batch * p.tokens, wanted = blockIdx.x * blockDim.z + threadIdx.z;
  const bool exists = wanted < tokens;
  Token t{0, min(wanted, tokens - 1), -1};
  const char *q_in = p.q.in, *k_in = p.k.in;
  char *q_out = p.q.out, *k_out = p.k.out;
  if (p.batch > 1) {
    t.batch = t.token / p.tokens;
    t.token -= t.batch * p.tokens;
    q_in += t.batch * p.q.in_batch, k_in += t.batch * p.k.in_batch;
    q_out += t.batch * p.q.out_batch, k_out += t.batch * p.k.out_batch;
  }
  q_in += t.token * p.q.in_token, k_in += t.token * p.k.in_token;
  q_out += t.token * p.q.out_token, k_out += t.token * p.k.out_token;

  // Heads of q come first, then those of k.
  const auto head_of = [&](int r) { return static_cast<int>((blockIdx.y * Rows + r) * blockDim.y + threadIdx.y); };
  const auto row_of = [&](int head, auto* q, auto* k, int64_t q_stride, int64_t k_stride) {
    const bool of_q = head < p.q_heads;
    const auto row = static_cast<uint64_t>(static_cast<uint32_t>(of_q ? head : head - p.q_heads));
    return (of_q ? q : k) + row * static_cast<Stride>(of_q ? q_stride : k_stride);
  };
  const T* source[Rows];
#pragma unroll
  for (int r = 0; r < Rows; ++r) {
    source[r] = reinterpret_cast<const T*>(row_of(min(head_of(r), p.heads - 1), q_in, k_in, p.q.in_head, p.k.in_head));
    ptx::keep(source[r]);
  }

  // The block's cos and sin, an entry for each pair of each lane, shared out over the token's threads.
  const int entries = blockDim.x * N, entry_step = blockDim.x * blockDim.y;
  const uint64_t* const table = table_of(p.angles);
  int entry = threadIdx.y * blockDim.x + threadIdx.x;
  int index = index_of<N, apart, where>(p, entry);
  uint64_t frequency = index >= 0 ? table[index] : 0;
  const bool has_ids = where == Where::ids || (where == Where::any && p.angles.positions.ids != nullptr);
  const bool has_indptr = where != Where::ids && p.angles.positions.indptr.data != nullptr;
  const char* id = has_ids ? id_of(p.angles.positions, 0, t) : nullptr;
  ptx::keep(id);

  if (!disordered && blockIdx.x < p.prefetching) {
    if (entry == 0 && has_ids) ptx::prefetch_global_l2(id);
    if (entry == 0 && blockIdx.x == 0) {  // what all blocks read, once
      if (where != Where::ids && p.angles.positions.offsets.data != nullptr) ptx::prefetch_global_l2(p.angles.positions.offsets.data);
      if (has_indptr) ptx::prefetch_global_l2(p.angles.positions.indptr.data);
    }
#pragma unroll
    for (int r = 0; r < Rows; ++r) {  // a sector of 32 bytes by the lane that begins it
      if (from.a * sizeof(T) % 32 == 0) ptx::prefetch_global_l2(source[r] + from.a);
      if (from.b * sizeof(T) % 32 == 0) ptx::prefetch_global_l2(source[r] + from.b);
    }
  }
  ptx::griddepcontrol_wait();
  ptx::griddepcontrol_launch_dependents();

  // Derived places take a while, and registers. Few tokens: rows travel meanwhile. Many: other blocks fill the wait, and rows set out after it.
  constexpr bool rows_first = where != Where::derived || Rows == 1;
  Chunk<T, N> a[Rows], b[Rows];
  IndptrCheck check;  // of the whole indptr, by every block
  const auto set_out = [&] {
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
      a[r] = load<T, N>(source[r] + from.a);
      b[r] = load<T, N>(source[r] + from.b);
    }
    if (has_indptr && !disordered) {
      check = begin_check(p.angles.positions.indptr, threadIdx.z * entry_step + threadIdx.y * blockDim.x + threadIdx.x);
    }
  };
  if constexpr (rows_first) set_out();
  Place place{};
  Verdict verdict = disordered ? read_sound_place(p.angles.positions, p.tokens, &t, &place)
                               : read_place<where>(p.angles.positions, p.angles.axes, id, &t, &place);
  if constexpr (where == Where::any) {
    for (int axis = 1; axis < p.angles.axes; ++axis) {
      Place other;
      const Verdict there = read_place<where>(p.angles.positions, p.angles.axes, id_of(p.angles.positions, axis, t), &t, &other);
      if (there > verdict) verdict = there;
    }
  }
  if constexpr (!rows_first) set_out();
  Real* const cos_shared = reinterpret_cast<Real*>(shared) + threadIdx.z * 2 * entries;
  Real* const sin_shared = cos_shared + entries;
  while (index >= 0) {
    cos_sin_of_pair<where>(p.angles, table, &t, place, index, frequency, &cos_shared[entry], &sin_shared[entry]);
    entry += entry_step;
    index = index_of<N, apart, where>(p, entry);
    if (index >= 0) frequency = table[index];
  }

  // The barrier also lets rows that change their order in place be read before any of them is written.
  if (!has_indptr || disordered) {
    __syncthreads();
  } else if constexpr (where != Where::ids) {
    if (__syncthreads_or(is_disordered(p.angles.positions.indptr, p.tokens, check, entry_step * blockDim.z))) {
      return rotate_disordered<T, N, Rows, In, Out, where>(p);
    }
  }
  if (!exists || !has_a) return;
  if (verdict == kSkip) {
    const bool speaks = threadIdx.x == 0 && threadIdx.y == 0 && blockIdx.y == 0 && blockIdx.z == 0;
    if (!disordered && speaks) report_position(p.angles.positions, p.angles.axes, t, CudaOperation::rotate, p.angles.mailbox);
    return;
  }

  const auto target = [&](int r) { return reinterpret_cast<T*>(row_of(head_of(r), q_out, k_out, p.q.out_head, p.k.out_head)); };
  if (turns && verdict == kRotate) {
    Real cos[N], sin[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      cos[i] = cos_shared[threadIdx.x * N + i];
      sin[i] = sin_shared[threadIdx.x * N + i];
    }
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
      if (head_of(r) >= p.heads) continue;
      rotate<In, Out>(a[r], b[r], cos, sin, where == Where::any && p.angles.still_at != 0);
      T* const row = target(r);
      store(row + to.a, a[r]);
      store(row + to.b, b[r]);
    }
  } else {
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
      if (head_of(r) >= p.heads || (head_of(r) < p.q_heads ? p.q_in_place : p.k_in_place)) continue;
      T* const row = target(r);
      store(row + from.a, a[r]);
      if (has_b) store(row + from.b, b[r]);
    }
  }
}

template <class T, int N, int Rows, Order In, Order Out, Where where>
__device__ __noinline__ void rotate_disordered(const RotateKernelParams& p) {
  const bool first = (threadIdx.x | threadIdx.y | threadIdx.z | blockIdx.x | blockIdx.y | blockIdx.z) == 0;
  if (first) report_indptr(p.angles.positions.indptr, p.tokens, p.angles.mailbox);
  rotate_block<T, N, Rows, In, Out, where, true>(p);
}

template <class T, int N, int Rows, Order In, Order Out, Where where>
__global__ void __launch_bounds__(kThreads<N>, kBlocks<N, Rows, In, Out, where>)
    rotate_kernel(const __grid_constant__ RotateKernelParams p) {
  rotate_block<T, N, Rows, In, Out, where, false>(p);
}

// ---- which one -------------------------------------------------------------------------------------------------------------------------

template <class T, int N, int Rows, Where where>
RotateKernel kernel_of(Order in, Order out) {
  constexpr Order H = Order::halves, I = Order::interleaved;
  constexpr int kMovingRows = where == Where::any ? 1 : Rows;
  if (in == H) return out == H ? rotate_kernel<T, N, Rows, H, H, where> : rotate_kernel<T, N, kMovingRows, H, I, where>;
  return out == H ? rotate_kernel<T, N, kMovingRows, I, H, where> : rotate_kernel<T, N, Rows, I, I, where>;
}

template <class T, int N, Where where>
RotateKernel kernel_of(const RotateForm& form) {
  return form.rows == 1 ? kernel_of<T, N, 1, where>(form.in, form.out) : kernel_of<T, N, 2, where>(form.in, form.out);
}

template <class T>
RotateKernel kernel_of(const RotateForm& form) {
  if constexpr (sizeof(T) < 8) {
    constexpr int N = kChunkBytes / sizeof(T);
    if (form.wide && form.where == Where::ids) return kernel_of<T, N, Where::ids>(form);
    if (form.wide && form.where == Where::derived) return kernel_of<T, N, Where::derived>(form);
    if (form.wide) return kernel_of<T, N, Where::any>(form);
  }
  return rotate_kernel<T, 1, 1, Order::halves, Order::halves, Where::any>;  // of a pair's two chunks each is a member: in any order
}

}  // namespace rope
