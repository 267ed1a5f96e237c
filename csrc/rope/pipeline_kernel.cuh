// The pipeline's kernel for everything: whatever norms, orders, tables and types are asked for. A block's layout, roles and protocol stand
// in pipeline_block.cuh. Rows wait in shared memory, past the registers; each warp takes its rows one after another, a norm's sum going
// round a row's group by shuffles. A norm over the width: one block has the token, and all its rows pass twice.
#pragma once

#include "pipeline_block.cuh"

namespace rope {

// Blocks of so many threads on a multiprocessor, at least: as many as registers can be had for without spills.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr int kPipelineBlocks = 4;
#else
constexpr int kPipelineBlocks = 3;
#endif

struct RowPlace {
  bool exists;
  int set;    // of the block's
  int token;  // of the block's
  int head;   // of the part's
};

__device__ __forceinline__ RowPlace place_of_row(const PipelineKernelParams& p, const KernelPart& part, int row) {
  const SetPlace place = place_of_set(part, row);
  const int head = place.number + anew(static_cast<int>(blockIdx.y)) * p.block_heads;
  return {place.exists && head < part.heads, min(row, part.last_set), place.token, min(head, part.heads - 1)};
}

template <class T>
__device__ __forceinline__ const T* source_of(const KernelPart& part, uint32_t batch, uint32_t token, int head) {
  return reinterpret_cast<const T*>(part.in + batch * part.in_batch + token * part.in_token + head * part.in_head);
}

// Where a row goes, null: nowhere.
__device__ __forceinline__ char* target_of(const KernelPart& part, const RowPlace& place, const TokenState& state) {
  if (!place.exists || (flags_of(state) & part.stopping) != 0) return nullptr;
  return first_target_of(part, state) + anew(place.head) * part.out_head;
}

// Where a thread's chunks of a task's row wait in shared memory, those of neighbours side by side.
template <class T, int N>
__device__ __forceinline__ T* waiting(const PipelineKernelParams& p, char* shared, int r, int which) {
  return reinterpret_cast<T*>(shared + p.rows_at) + ((2 * r + which) * blockDim.x + threadIdx.x) * N;
}

// Sets the first units of a task's rows going, or only prefetches them.
template <class T, int N>
__device__ __forceinline__ void fetch_task(const PipelineKernelParams& p, const Task& task, char* shared, bool prefetch) {
  const KernelPart& part = p.parts[task.part];
  const Unit unit = unit_of<N>(p, part, task.unit);
#pragma unroll 1
  for (int r = 0; r < p.rows; ++r) {
    const RowPlace place = place_of_row(p, part, task.set + (r << (5 - part.group)));
    const Token t = token_at(p, (blockIdx.x << p.block_tokens) + place.token);
    const T* const source = source_of<T>(part, t.batch, t.token, place.head);
    if (prefetch) {  // a sector of 32 bytes by the lane that begins it
      if (unit.a * sizeof(T) % 32 == 0) ptx::prefetch_global_l2(source + unit.a);
      if (unit.b * sizeof(T) % 32 == 0) ptx::prefetch_global_l2(source + unit.b);
      if (blockIdx.x == 0 && part.norm && part.weight != nullptr) {  // what all blocks read, once
        const char* const weight =
            part.weight + (part.norm_width ? int64_t{place.head} * part.width : 0) * (part.wide_weight ? 4 : sizeof(T));
        ptx::prefetch_global_l2(weight + unit.a * (part.wide_weight ? 4 : sizeof(T)));
        ptx::prefetch_global_l2(weight + unit.b * (part.wide_weight ? 4 : sizeof(T)));
      }
    } else if constexpr (N > 1) {
      ptx::cp_async_16(waiting<T, N>(p, shared, r, 0), source + unit.a);
      ptx::cp_async_16(waiting<T, N>(p, shared, r, 1), source + unit.b);
    }
  }
}

template <class T>
__device__ __forceinline__ T* aside_of(const PipelineKernelParams& p, const KernelPart& part, char* shared) {
  return reinterpret_cast<T*>(shared + p.aside_at + threadIdx.x / 32 * p.aside_step + (threadIdx.x % 32 >> part.group) * p.aside_bytes);
}

template <class T>
__device__ __forceinline__ void set_aside(const PipelineKernelParams& p, const KernelPart& part, char* shared, int row, int first_unit) {
  const RowPlace place = place_of_row(p, part, row);
  const TokenState& state = state_of(p, shared, place.token);
  const T* const source = source_of<T>(part, state.batch, state.token, place.head);
  T* const aside = aside_of<T>(p, part, shared);
  __syncwarp();
  for (int i = first_unit; i < part.width; i += 1 << part.group) aside[i] = source[i];
}

// A lane's unit of a row on its way.
template <class T, int N>
struct Moving {
  RowPlace place;
  const TokenState& state;
  int index;
  Unit unit;
  Chunk<T, N> a, b;
};

template <class T, int N>
__device__ __forceinline__ Moving<T, N> load_unit(const PipelineKernelParams& p, const KernelPart& part, char* shared, int r, int row,
                                                  int index, bool waits) {
  const RowPlace place = place_of_row(p, part, row);
  const TokenState& state = state_of(p, shared, place.token);
  Moving<T, N> m{place, state, index, unit_of<N>(p, part, index), {}, {}};
  if (N > 1 && waits) {
    m.a = load<T, N>(waiting<T, N>(p, shared, r, 0));
    m.b = load<T, N>(waiting<T, N>(p, shared, r, 1));
  } else {
    const T* source = source_of<T>(part, state.batch, state.token, place.head);
    if (N == 1 && part.aside) source = aside_of<T>(p, part, shared);
    m.a = load<T, N>(source + m.unit.a);
    m.b = load<T, N>(source + m.unit.b);
  }
  return m;
}

template <class T, int N, class Real>
__device__ __forceinline__ void rotate_unit(const PipelineKernelParams& p, const char* shared, Moving<T, N>* m, Real (&x)[N],
                                            Real (&y)[N]) {
  const char* const angles = shared + m->place.token * p.token_angles + m->place.set * p.head_angles;
  rotate(p, angles + m->index * static_cast<int>(sizeof(Real)) * (N == 1 ? 1 : N / 2), x, y);
  m->unit.a = p.rotary_offset + p.out_step * m->index;
  m->unit.b = m->unit.a + p.out_second;
}

template <class T, int N>
__device__ __forceinline__ double sum_unit(const PipelineKernelParams& p, const KernelPart& part, char* shared, int r, int row, int index,
                                           bool waits) {
  shared += anew(0);
  Moving<T, N> m = load_unit<T, N>(p, part, shared, r, row, index, waits);
  RealOf<T> x[N], y[N];
  widen(m.a, x), widen(m.b, y);
  if (part.norm_after && m.state.turns && m.unit.turns) rotate_unit(p, shared, &m, x, y);
  return sum_of_squares(m.unit, x, y);
}

template <class T, int N>
__device__ __forceinline__ void write_unit(const PipelineKernelParams& p, const KernelPart& part, char* shared, int r, int row, int index,
                                           bool waits, RealOf<T> inverse) {
  using Real = RealOf<T>;
  shared += anew(0);
  Moving<T, N> m = load_unit<T, N>(p, part, shared, r, row, index, waits);
  const bool padding = m.state.verdict == kPass, norm = part.norm && !padding, scaled = part.scaled && !padding;
  const bool rotates = m.state.turns && m.unit.turns, touched = norm || scaled || part.quantised;
  if (!rotates && !touched && part.out_dtype == dtype_of<T>()) {  // as they are, bit for bit
    char* const out = part.in_place ? nullptr : target_of(part, m.place, m.state);
    if (out == nullptr || !m.unit.has_a) return;
    store(reinterpret_cast<T*>(out) + m.unit.a, m.a);
    if (m.unit.has_b) store(reinterpret_cast<T*>(out) + m.unit.b, m.b);
    return;
  }

  Real x[N], y[N];
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = widen(m.a.at[i]), y[i] = widen(m.b.at[i]);
  if constexpr (std::is_same_v<T, __half>) {
    if (!touched) keep_nans(m.a, x), keep_nans(m.b, y);
  }
#pragma unroll 1
  for (int step = 0; step < 2; ++step) {  // norm, rotation; norm: the code of each once
    if (norm && part.norm_after == (step == 1)) apply_norm<T>(part, inverse, m.place.head, m.unit, x, y);
    if (step == 0 && rotates) rotate_unit(p, shared, &m, x, y);
  }
  if (scaled) multiply(static_cast<Real>(m.state.scale), x, y);
  if (part.quantised) multiply(static_cast<Real>(part.factor), x, y);
  char* const out = target_of(part, place_of_row(p, part, anew(row)), m.state);
  if (out == nullptr || !m.unit.has_a) return;
  store_as(part.out_dtype, out, m.unit, x, y);
  if constexpr (!std::is_same_v<T, double>) {
    if (!touched && (!rotates || p.angles.still_at != 0)) store_nans<T>(part.out_dtype, out, m.unit, x, y);
  }
}

// The sum of a row's squares, in all lanes of its group; or added to the sum of the token's.
template <class T, int N>
__device__ __forceinline__ double sum_row(const PipelineKernelParams& p, int number, char* shared, double* sums, int r, int row,
                                          int first_unit) {
  double sum = 0;
#pragma unroll 1
  for (int round = 0; round < p.parts[anew(number)].rounds; ++round) {
    const KernelPart& part = p.parts[anew(number)];
    sum += sum_unit<T, N>(p, part, shared, r, anew(row), first_unit + (round << part.group), round == 0);
  }
  const KernelPart& part = p.parts[anew(number)];
  if (sums != nullptr && !place_of_row(p, part, row).exists) sum = 0;
#pragma unroll 1
  for (int by = (sums != nullptr ? 32 : 1 << part.group) / 2; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
  if (sums != nullptr && threadIdx.x % 32 == 0) sums[threadIdx.x / 32] += sum;
  return sum;
}

// Row r of a task, from its chunks to the store. summing: the first of two times, where a norm is over the width.
template <class T, int N>
__device__ __forceinline__ void work_on_row(const PipelineKernelParams& p, int number, char* shared, bool summing, int r, int row,
                                            int first_unit) {
  {
    const KernelPart& part = p.parts[anew(number)];
    if (summing && !(part.norm && part.norm_width)) return;
    if constexpr (N == 1) {
      if (part.aside) set_aside<T>(p, part, shared, row, first_unit);
    }
  }
  __syncwarp();  // A row that changes its order in place has been read before any of it is written.
  RealOf<T> inverse = 0;
  if (p.parts[anew(number)].norm) {
    double* const sums = reinterpret_cast<double*>(shared + p.sums_at) + number * (kPipelineThreads / 32);
    const bool over_width = p.parts[anew(number)].norm_width;
    double sum = 0;
    if (!over_width || summing) sum = sum_row<T, N>(p, number, shared, summing ? sums : nullptr, r, row, first_unit);
    if (summing) return;
#pragma unroll 1
    for (int i = over_width ? 0 : INT32_MAX; i < kPipelineThreads / 32; ++i) sum += sums[i];
    inverse = inverse_root<RealOf<T>>(p.parts[anew(number)], sum);
  }
#pragma unroll 1
  for (int round = 0; round < p.parts[anew(number)].rounds; ++round) {
    const KernelPart& part = p.parts[anew(number)];
    write_unit<T, N>(p, part, shared, r, anew(row), first_unit + (round << part.group), round == 0, inverse);
  }
}

// ---- the kernel ------------------------------------------------------------------------------------------------------------------------

// The rows of a warp's first task.
template <class T, int N>
struct FirstRows {
  bool there;
  Task task;

  __device__ __forceinline__ void prefetch(const PipelineKernelParams& p) const {
    if (there) fetch_task<T, N>(p, task, nullptr, true);
  }
  __device__ __forceinline__ void fetch(const PipelineKernelParams& p, char* shared) const {
    if (there) fetch_task<T, N>(p, task, shared, false);
  }
};

template <class T, int N>
__global__ void __launch_bounds__(kPipelineThreads, kPipelineBlocks) pipeline_kernel(const __grid_constant__ PipelineKernelParams p) {
  extern __shared__ __align__(16) char shared[];
  const int first_task = first_task_of(p);
  FirstRows<T, N> rows{first_task < p.tasks, {}};
  if (rows.there) rows.task = task_of(p, first_task, p.rows);
  const bool disordered = begin_block<Where::any, N, RealOf<T>>(p, shared, &rows);

  Task task = rows.task;
  bool fresh = true;
#pragma unroll 1
  for (int phase = p.width_norm ? 0 : 1; phase < 2; ++phase) {
#pragma unroll 1
    for (int number = first_task_of(p); number < p.tasks; number += p.task_step) {
      if (!fresh) {
        task = task_of(p, number, p.rows);
        fetch_task<T, N>(p, task, shared, false);
      }
      fresh = false;
      ptx::cp_async_wait_all();
#pragma unroll 1
      for (int r = 0; r < p.rows; ++r) {
        const int row = task.set + (r << (5 - p.parts[anew(task.part)].group));
        work_on_row<T, N>(p, task.part, shared, phase == 0, r, row, task.unit);
      }
    }
    if (phase == 0) __syncthreads();
  }
  if (!disordered) report_tokens(p, shared);
}

}  // namespace rope
