// What a block of the pipeline does but for its rows: which tokens it has, cos and sin of them, their places in the pages, faults.
// Layout: a block has a token, or several where they are small, and its warps share out the rows of all parts (q, k, v, ...), a task each;
//   grid: x tokens, y tasks beyond one block's. In a warp a group of 1 to 32 lanes has a row, or two; a lane has units of two chunks of it,
//   16 bytes each: both members of N pairs, or 2 N channels that pass through. Rows that do not lie on 16 bytes take chunks of one element
//   (N = 1).
// Roles: every warp sets the rows of its task going; while they travel, the threads turn the tokens' positions into cos and sin, a pair
//   each, and one finds each token's place in the pages, in shared memory; one barrier; then each warp works on its rows.
// Protocol: before griddepcontrol.wait addresses are computed and rows prefetched into the L2, nothing else. What becomes of a token stands
//   in pipeline.h; where indptr is out of order the block begins anew and keeps to sound requests. Faults go to the mailbox, which keeps
//   the first.
// Compiled with -fmad=false: products and sums are rounded one by one, as on the CPU, so that both give the same bits.
#pragma once

#include "../device/ptx.cuh"
#include "pipeline_rows.cuh"

namespace rope {

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
  int set;   // of heads: the first of the lane's group, counted through the block's tokens
  int unit;  // the lane's first
};

__device__ __forceinline__ int first_task_of(const PipelineKernelParams& p) {
  return static_cast<int>(blockIdx.y) * p.block_tasks + anew(threadIdx.x) / 32;
}

// sets: of heads, that a group has of a task.
__device__ __forceinline__ Task task_of(const PipelineKernelParams& p, int number, int sets) {
  int index = 0;
#pragma unroll 1
  while (index + 1 < p.part_count && number >= p.parts[index + 1].first_task) ++index;
  const KernelPart& part = p.parts[index];
  const int lane = threadIdx.x % 32;
  return {index, (((number - part.first_task) * sets) << (5 - part.group)) + (lane >> part.group), lane & ((1 << part.group) - 1)};
}

struct SetPlace {
  bool exists;
  int token;   // of the block's
  int number;  // of the token's
};

__device__ __forceinline__ SetPlace place_of_set(const KernelPart& part, int set) {
  const int within = min(set, part.last_set);
  const int token = static_cast<int>(__umulhi(2 * static_cast<uint32_t>(within), part.sets_inverse));
  return {set <= part.last_set, token, within - token * part.sets};
}

__device__ __forceinline__ const TokenState& state_of(const PipelineKernelParams& p, const char* shared, int token) {
  return reinterpret_cast<const TokenState*>(shared + p.states_at)[token];
}

__device__ __forceinline__ uint32_t flags_of(const TokenState& state) { return *reinterpret_cast<const uint32_t*>(&state.verdict); }

// Where a token's first head goes.
__device__ __forceinline__ char* first_target_of(const KernelPart& part, const TokenState& state) {
  return part.out + (part.paged ? state.page * part.out_batch + state.place * part.out_token
                                : state.batch * part.out_batch + state.token * part.out_token);
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
template <Where where>
__device__ __forceinline__ Verdict judge(const PipelineKernelParams& p, bool disordered, const char* id, Loading first, Token* t,
                                         Place* place, bool* turns) {
  const Positions& positions = p.angles.positions;
  *place = {};
  *turns = false;
  if (!p.turns) return kRotate;
  Verdict verdict;
  if constexpr (where == Where::ids) {
    place->whole = first.value(positions.dtype == ROPE_INT64);
    verdict = place->whole == -1 ? kPass : place_whole(place);
  } else {
    verdict = disordered ? read_sound_place(positions, p.tokens, t, place) : read_place<where>(positions, p.angles.axes, id, t, place);
  }
  if constexpr (where == Where::any) {
#pragma unroll 1
    for (int axis = 1; axis < p.angles.axes; ++axis) {
      Place other;
      const Verdict there = read_place<where>(positions, p.angles.axes, id_of(positions, axis, *t), t, &other);
      if (there > verdict) verdict = there;
    }
    if (verdict == kPass) return positions.ids != nullptr ? kPass : kRotate;  // no request owns it
  }
  if (verdict == kRotate && p.table.cos != nullptr && (place->whole < 0 || place->whole >= p.table.rows)) verdict = kSkip;
  *turns = verdict == kRotate;
  if (where == Where::any && *turns && p.prefix != 0) {
    *turns = t->token - (t->request >= 0 ? load_index(positions.indptr, t->request) : 0) >= p.prefix;
  }
  return verdict;
}

// Says what is wrong with a token of the block that is not written.
__device__ __noinline__ static void report_token(const PipelineKernelParams& p, int local, const TokenState& state) {
  const uint32_t token = (blockIdx.x << p.block_tokens) + local;
  Token t = token_at(p, token);
  if (state.verdict != kSkip) {
    Slot slot;
    rope_fault fault;
    if (find_slot(p.pages, token, wanted_of(p.pages, token), &slot, &fault) == Stored::fault)
      report_fault(p.angles.mailbox, CudaOperation::rotate, fault);
  } else if (p.table.cos == nullptr) {
    report_position(p.angles.positions, p.angles.axes, t, CudaOperation::rotate, p.angles.mailbox);
  } else {
    Place place;
    read_place<Where::any>(p.angles.positions, 1, id_of(p.angles.positions, 0, t), &t, &place);
    const int64_t request = t.request >= 0 ? t.request : t.batch;
    report_fault(p.angles.mailbox, CudaOperation::rotate, {ROPE_FAULT_ROW, 0, request, t.token, place.whole, p.table.rows});
  }
}

// cos and sin of the entries from `entry` on, every `step`-th. `index` and `frequency` are of the first, read ahead.
template <Where where, int N, class Real>
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
      cos_sin_of_pair<where>(p.angles, frequencies, t, place, index, frequency, &at[0], &at[p.entries]);
    }
    entry += step;
    index = index_of<N>(p, entry);
    if (index >= 0 && p.table.cos == nullptr) frequency = frequencies[index];
  }
}

__device__ __forceinline__ void prefetch_entry(const Indices& indices, int64_t i) {
  ptx::prefetch_global_l2(static_cast<const char*>(indices.data) + i * indices.stride * (indices.wide ? 8 : 4));
}

__device__ __forceinline__ void prefetch_wanted(const Pages& pages, int64_t token) {
  if (pages.slots.data != nullptr) return prefetch_entry(pages.slots, token);
  prefetch_entry(pages.batch, token);
  prefetch_entry(pages.places, token);
}

// ---- the block -------------------------------------------------------------------------------------------------------------------------

// Ends past the barrier: rows are under way, states and angles in shared memory. Rows has prefetch(p) and fetch(p, shared). Returns whether
// indptr was out of order, which it has reported then.
template <Where where, int N, class Real, class Rows>
__device__ __forceinline__ bool begin_block(const PipelineKernelParams& p, char* shared, Rows* rows) {
  // The block's tokens are shared out over its threads too, each token to `helpers`.
  const int local = threadIdx.x & ((1 << p.block_tokens) - 1), helper = threadIdx.x >> p.block_tokens;
  const int helpers = static_cast<int>(blockDim.x) >> p.block_tokens;
  const uint32_t number = (blockIdx.x << p.block_tokens) + local;
  Token t = token_at(p, number);
  const Positions& positions = p.angles.positions;
  const bool has_ids = positions.ids != nullptr, has_indptr = where == Where::any && positions.indptr.data != nullptr;
  const uint64_t* const frequencies = table_of(p.angles);
  const bool block_turns = static_cast<int>(blockIdx.y) * p.block_tasks < p.turning_tasks;
  const int index = block_turns ? index_of<N>(p, helper) : -1;
  // The others have no use for the position: the last finds the place in the pages meanwhile.
  const bool stands = index >= 0 || helper == 0, finds = helper == helpers - 1 && p.paged;
  const char* const id = (where != Where::ids || stands) && has_ids ? id_of(positions, 0, t) : nullptr;
  const uint64_t frequency = index >= 0 && p.table.cos == nullptr ? frequencies[index] : 0;

  if (blockIdx.x < p.prefetching) {
    rows->prefetch(p);
    if (helper == 0 && has_ids) ptx::prefetch_global_l2(id);
    if (finds) {
      prefetch_wanted(p.pages, min(number, p.last_token));
      // In decoding the token's request has its number.
      if (p.pages.indptr.data != nullptr) prefetch_entry(p.pages.indptr, min(static_cast<int64_t>(number), p.pages.indptr.count - 1));
    }
  }
  ptx::griddepcontrol_wait();
  ptx::griddepcontrol_launch_dependents();

  // What others wait for sets out before the rows.
  Loading first_id{};
  if (where == Where::ids && id != nullptr) first_id = begin_load(id, positions.dtype == ROPE_INT64);
  Wanted wanted{};
  if (where == Where::ids && finds) wanted = wanted_of(p.pages, min(number, p.last_token));
  ptx::keep_order();
  rows->fetch(p, shared);
  IndptrCheck check;  // of the whole indptr, by every block
  if (has_indptr) check = begin_check(positions.indptr, threadIdx.x);
  TokenState& state = reinterpret_cast<TokenState*>(shared + p.states_at)[local];
  if (helper == helpers - 1) {
    state.batch = t.batch, state.token = t.token;
    state.absent = number >= p.all_tokens;
    state.scale = p.scale.data != nullptr ? p.scale.data[t.batch * p.scale.batch_stride + t.token * p.scale.token_stride] : 1;
    Slot slot{0, 0};
    rope_fault fault;
    const uint32_t token = min(number, p.last_token);
    if (where != Where::ids && p.paged) wanted = wanted_of(p.pages, token);
    state.stored = static_cast<uint8_t>(p.paged ? find_slot(p.pages, token, wanted, &slot, &fault) : Stored::yes);
    state.page = slot.page, state.place = slot.place;
  }
  bool disordered = false;
#pragma unroll 1
  for (;;) {
    if (stands) {
      Place place;
      bool turns;
      const Verdict verdict = judge<where>(p, disordered, id, first_id, &t, &place, &turns);
      if (helper == 0) state.verdict = static_cast<uint8_t>(verdict), state.turns = turns;
      if (turns) {
        Real* const angles = reinterpret_cast<Real*>(shared + local * p.token_angles);
        write_angles<where, N>(p, frequencies, &t, place, helper, helpers, index, frequency, angles);
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
  return disordered;
}

// Last of all: before, registers would have to be kept for it.
__device__ __forceinline__ void report_tokens(const PipelineKernelParams& p, const char* shared) {
  const int local = threadIdx.x;
  if (local >> p.block_tokens != 0 || blockIdx.y != 0) return;
  const TokenState& state = state_of(p, shared, local);
  if ((flags_of(state) & kNotWritten) != 0 && state.absent == 0) report_token(p, local, state);
}

}  // namespace rope
