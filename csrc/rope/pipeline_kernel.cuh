// The whole pipeline in one kernel: load, norm, rotate, norm, scale, quantise, store.
// Layout: a block has a token, or several where they are small, and its warps share out the rows of all parts (q, k, v, ...), a task each; grid:
//   x tokens, y tasks beyond one block's. In a warp a group of 1 to 32 lanes has a row, or two; a lane has units of two chunks of it, 16 bytes each:
//   both members of N pairs, or 2 N channels that pass through. Rows that do not lie on 16 bytes take chunks of one element (N = 1).
// Roles: every warp sets the rows of its task going, past the registers into shared memory; while they travel, the threads turn the tokens'
//   positions into cos and sin, a pair each, and one finds each token's place in the pages, there too; one barrier; then each warp works on its
//   rows, a norm's sum going round its group by shuffles. A norm over the width: one block has the token, and all its rows pass twice.
// Protocol: before griddepcontrol.wait addresses are computed and rows prefetched into the L2, nothing else. What becomes of a token stands in
//   pipeline.h; where indptr is out of order the block begins anew and keeps to sound requests. Faults go to the mailbox, which keeps the first.
// Compiled with -fmad=false: products and sums are rounded one by one, as on the CPU, so that both give the same bits.
#pragma once

#include "../device/ptx.cuh"
#include "pipeline_rows.cuh"

namespace rope {

// Blocks of so many threads on a multiprocessor, at least: as many as registers can be had for without spills.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr int kPipelineBlocks = 4;
#else
constexpr int kPipelineBlocks = 3;
#endif

// Its tokens count on through the batch; beyond the last a thread reads what the last one has and writes nothing.
__device__ __forceinline__ Token token_at(const PipelineKernelParams& p, uint32_t wanted) {
  Token t{0, min(wanted, p.last_token), -1};
  if (p.batch > 1) {
    t.batch = t.token / p.tokens;
    t.token -= t.batch * p.tokens;
  }
  return t;
}

// ---- tasks -----------------------------------------------------------------------------------------------------------------------------

struct Task {
  int part;
  int row;   // the first of the lane's group, counted through the block's tokens, head by head
  int unit;  // the lane's first
};

__device__ __forceinline__ int first_task_of(const PipelineKernelParams& p) {
  return static_cast<int>(blockIdx.y) * p.block_tasks + anew(threadIdx.x) / 32;
}

__device__ __forceinline__ Task task_of(const PipelineKernelParams& p, int number) {
  int index = 0;
#pragma unroll 1
  while (index + 1 < p.part_count && number >= p.parts[index + 1].first_task) ++index;
  const KernelPart& part = p.parts[index];
  const int lane = threadIdx.x % 32;
  return {index, (((number - part.first_task) * p.rows) << (5 - part.group)) + (lane >> part.group), lane & ((1 << part.group) - 1)};
}

struct RowPlace {
  bool exists;
  int row;    // of the block's
  int token;  // of the block's
  int head;   // of the part's
};

__device__ __forceinline__ RowPlace place_of_row(const PipelineKernelParams& p, const KernelPart& part, int row) {
  const int within = min(row, part.last_row);
  const int token = static_cast<int>(__umulhi(2 * static_cast<uint32_t>(within), part.heads_inverse));
  const int head = within - token * part.heads + anew(static_cast<int>(blockIdx.y)) * p.block_heads;
  return {row <= part.last_row && head < part.heads, within, token, min(head, part.heads - 1)};
}

template <class T>
__device__ __forceinline__ const T* source_of(const KernelPart& part, uint32_t batch, uint32_t token, int head) {
  return reinterpret_cast<const T*>(part.in + batch * part.in_batch + token * part.in_token + head * part.in_head);
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
    const RowPlace place = place_of_row(p, part, task.row + (r << (5 - part.group)));
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
      copy_async<T, N>(waiting<T, N>(p, shared, r, 0), source + unit.a);
      copy_async<T, N>(waiting<T, N>(p, shared, r, 1), source + unit.b);
    }
  }
}

// Where a row goes, null: nowhere.
__device__ __forceinline__ char* target_of(const KernelPart& part, const RowPlace& place, const TokenState& state) {
  if (!place.exists || !state.exists || state.verdict == kSkip || state.stored == static_cast<uint8_t>(Stored::fault)) return nullptr;
  char* const out = part.out + anew(place.head) * part.out_head;
  if (!part.paged) return out + state.batch * part.out_batch + state.token * part.out_token;
  if (state.stored == static_cast<uint8_t>(Stored::no) || state.verdict == kPass) return nullptr;
  return out + state.page * part.out_batch + state.place * part.out_token;
}

template <int N, class Real>
__device__ __forceinline__ void multiply(Real factor, Real (&x)[N], Real (&y)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = x[i] * factor, y[i] = y[i] * factor;
}

template <class T>
__device__ __forceinline__ T* aside_of(const PipelineKernelParams& p, const KernelPart& part, char* shared) {
  return reinterpret_cast<T*>(shared + p.aside_at + threadIdx.x / 32 * p.aside_step + (threadIdx.x % 32 >> part.group) * p.aside_bytes);
}

template <class T>
__device__ __forceinline__ void set_aside(const PipelineKernelParams& p, const KernelPart& part, char* shared, int row, int first_unit) {
  const RowPlace place = place_of_row(p, part, row);
  const TokenState& state = reinterpret_cast<const TokenState*>(shared + p.states_at)[place.token];
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
  const TokenState& state = reinterpret_cast<const TokenState*>(shared + p.states_at)[place.token];
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
  const char* const angles = shared + m->place.token * p.token_angles + m->place.row * p.head_angles;
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
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = widen(m.a.at[i]), y[i] = widen(m.b.at[i]);
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

// ---- tokens ----------------------------------------------------------------------------------------------------------------------------

// The table's entry that a thread of the block makes cos and sin of, -1 if none.
template <int N>
__device__ __forceinline__ int index_of(const PipelineKernelParams& p, int entry) {
  if (entry >= p.entries) return -1;
  if (p.block_heads == 0) return pair_of<N>(p, entry);
  const int head = entry / p.pairs;
  const int index = (static_cast<int>(blockIdx.y) * p.block_heads + head) * p.pairs + pair_of<N>(p, entry - head * p.pairs);
  return index < p.angles.axis_stride ? index : -1;
}

// Where a token stands, and whether it turns.
__device__ __forceinline__ Verdict judge(const PipelineKernelParams& p, bool disordered, const char* id, Token* t, Place* place,
                                         bool* turns) {
  const Positions& positions = p.angles.positions;
  *place = {};
  *turns = false;
  if (!p.turns) return kRotate;
  Verdict verdict =
      disordered ? read_sound_place(positions, p.tokens, t, place) : read_place<Where::any>(positions, p.angles.axes, id, t, place);
#pragma unroll 1
  for (int axis = 1; axis < p.angles.axes; ++axis) {
    Place other;
    const Verdict there = read_place<Where::any>(positions, p.angles.axes, id_of(positions, axis, *t), t, &other);
    if (there > verdict) verdict = there;
  }
  if (verdict == kPass) return positions.ids != nullptr ? kPass : kRotate;  // no request owns it
  if (verdict == kRotate && p.table.cos != nullptr && (place->whole < 0 || place->whole >= p.table.rows)) verdict = kSkip;
  if (verdict == kSkip) return kSkip;
  *turns = p.prefix == 0 || t->token - (t->request >= 0 ? load_index(positions.indptr, t->request) : 0) >= p.prefix;
  return kRotate;
}

__device__ __noinline__ static void report_row(const PipelineKernelParams& p, Token t) {
  Place place;
  read_place<Where::any>(p.angles.positions, 1, id_of(p.angles.positions, 0, t), &t, &place);
  const int64_t request = t.request >= 0 ? t.request : t.batch;
  report_fault(p.angles.mailbox, CudaOperation::rotate, {ROPE_FAULT_ROW, 0, request, t.token, place.whole, p.table.rows});
}

__device__ __noinline__ static void report_slot(const PipelineKernelParams& p, uint32_t token) {
  Slot slot;
  rope_fault fault;
  if (find_slot(p.pages, token, &slot, &fault) == Stored::fault) report_fault(p.angles.mailbox, CudaOperation::rotate, fault);
}

// cos and sin of the entries from `entry` on, every `step`-th. `index` and `frequency` are of the first, read ahead.
template <int N, class Real>
__device__ __forceinline__ void write_angles(const PipelineKernelParams& p, const uint64_t* frequencies, Token* t, const Place& place,
                                             int entry, int step, int index, uint64_t frequency, Real* angles) {
#pragma unroll 1
  while (index >= 0) {
    Real* const at = angles + entry;
    if (p.table.cos != nullptr) {
      Real cos[2], sin[2];
      read_table(p.table, p.pairs, place.whole, index, cos, sin);
      at[0] = cos[0], at[p.entries] = sin[0];
      if (p.table.full) at[2 * p.entries] = cos[1], at[3 * p.entries] = sin[1];
    } else {
      cos_sin_of_pair<Where::any>(p.angles, frequencies, t, place, index, frequency, &at[0], &at[p.entries]);
    }
    entry += step;
    index = index_of<N>(p, entry);
    if (index >= 0 && p.table.cos == nullptr) frequency = frequencies[index];
  }
}

// ---- the kernel ------------------------------------------------------------------------------------------------------------------------

template <class T, int N>
__global__ void __launch_bounds__(kPipelineThreads, kPipelineBlocks) pipeline_kernel(const __grid_constant__ PipelineKernelParams p) {
  using Real = RealOf<T>;
  extern __shared__ __align__(16) char shared[];

  const int first_task = first_task_of(p);
  Task task{};
  if (first_task < p.tasks) task = task_of(p, first_task);

  // The block's tokens are shared out over its threads too, each token to `helpers`.
  const int local = threadIdx.x & ((1 << p.block_tokens) - 1), helper = threadIdx.x >> p.block_tokens;
  const int helpers = static_cast<int>(blockDim.x) >> p.block_tokens;
  const uint32_t wanted = (blockIdx.x << p.block_tokens) + local;
  const bool exists = wanted < p.all_tokens;
  Token t = token_at(p, wanted);
  const Positions& positions = p.angles.positions;
  const bool has_ids = positions.ids != nullptr, has_indptr = positions.indptr.data != nullptr;
  const char* id = has_ids ? id_of(positions, 0, t) : nullptr;
  const uint64_t* const frequencies = table_of(p.angles);
  const bool block_turns = static_cast<int>(blockIdx.y) * p.block_tasks < p.turning_tasks;
  const int index = block_turns ? index_of<N>(p, helper) : -1;
  const uint64_t frequency = index >= 0 && p.table.cos == nullptr ? frequencies[index] : 0;

  if (blockIdx.x < p.prefetching) {
    if (first_task < p.tasks) fetch_task<T, N>(p, task, shared, true);
    if (helper == 0 && has_ids) ptx::prefetch_global_l2(id);
    if (helper == helpers - 1 && p.paged) {
      const Indices& first = p.pages.slots.data != nullptr ? p.pages.slots : p.pages.batch;
      const int64_t token = min(wanted, p.last_token);
      ptx::prefetch_global_l2(static_cast<const char*>(first.data) + token * first.stride * (first.wide ? 8 : 4));
    }
  }
  ptx::griddepcontrol_wait();
  ptx::griddepcontrol_launch_dependents();

  if (first_task < p.tasks) fetch_task<T, N>(p, task, shared, false);
  IndptrCheck check;  // of the whole indptr, by every block
  if (has_indptr) check = begin_check(positions.indptr, threadIdx.x);
  TokenState& state = reinterpret_cast<TokenState*>(shared + p.states_at)[local];
  if (helper == helpers - 1) {
    state.batch = t.batch, state.token = t.token;
    state.exists = exists;
    state.scale = p.scale.data != nullptr ? p.scale.data[t.batch * p.scale.batch_stride + t.token * p.scale.token_stride] : 1;
    Slot slot{0, 0};
    rope_fault fault;
    const int64_t token = min(wanted, p.last_token);
    state.stored = static_cast<uint8_t>(p.paged ? find_slot(p.pages, token, &slot, &fault) : Stored::yes);
    state.page = slot.page, state.place = slot.place;
  }
  bool disordered = false;
#pragma unroll 1
  for (;;) {
    if (index >= 0 || helper == 0) {  // The others have no use for the position: the last finds the place in the pages meanwhile.
      Place place;
      bool turns;
      const Verdict verdict = judge(p, disordered, id, &t, &place, &turns);
      if (helper == 0) state.verdict = static_cast<uint8_t>(verdict), state.turns = turns;
      if (turns) {
        Real* const angles = reinterpret_cast<Real*>(shared + local * p.token_angles);
        write_angles<N>(p, frequencies, &t, place, helper, helpers, index, frequency, angles);
      }
    }
    if (!has_indptr || disordered) break;
    if (!__syncthreads_or(is_disordered(positions.indptr, p.tokens, check, blockDim.x))) break;
    if ((threadIdx.x | blockIdx.x | blockIdx.y) == 0) report_indptr(positions.indptr, p.tokens, p.angles.mailbox);
    disordered = true;
  }
  if (p.width_norm) {
    for (int i = threadIdx.x; i < kPipelineParts * kPipelineThreads / 32; i += blockDim.x)
      reinterpret_cast<double*>(shared + p.sums_at)[i] = 0;
  }
  __syncthreads();
  if (exists && blockIdx.y == 0 && !disordered) {
    if (helper == 0 && state.verdict == kSkip) {
      if (p.table.cos != nullptr) {
        report_row(p, t);
      } else {
        report_position(positions, p.angles.axes, t, CudaOperation::rotate, p.angles.mailbox);
      }
    } else if (helper == helpers - 1 && state.verdict != kSkip && state.stored == static_cast<uint8_t>(Stored::fault)) {
      report_slot(p, wanted);
    }
  }

  bool fresh = true;
#pragma unroll 1
  for (int phase = p.width_norm ? 0 : 1; phase < 2; ++phase) {
#pragma unroll 1
    for (int number = first_task_of(p); number < p.tasks; number += p.task_step) {
      if (!fresh) {
        task = task_of(p, number);
        fetch_task<T, N>(p, task, shared, false);
      }
      fresh = false;
      wait_for_copies();
#pragma unroll 1
      for (int r = 0; r < p.rows; ++r) {
        const int row = task.row + (r << (5 - p.parts[anew(task.part)].group));
        work_on_row<T, N>(p, task.part, shared, phase == 0, r, row, task.unit);
      }
    }
    if (phase == 0) __syncthreads();
  }
}

}  // namespace rope
