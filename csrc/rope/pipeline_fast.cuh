// The pipeline's kernel for what is common: rows of 16-byte chunks that one group of lanes holds in registers, a norm over each head before
// the rotation, pairs that keep their order, positions given one by one, results of the inputs' type or float8_e4m3fn. A block's layout,
// roles and protocol stand in pipeline_block.cuh. A warp has one task: each group of its lanes has one set of a token's heads, all on their
// way while the block prepares; then they go through all steps, with the same cos and sin.
#pragma once

#include "pipeline_block.cuh"

namespace rope {

constexpr int kFastBlocks = 4;  // of kPipelineThreads on a multiprocessor, at least: 64 registers

template <class T, int N>
class HeldRows {
 public:
  __device__ __forceinline__ HeldRows(const PipelineKernelParams& p, int number) {
    const Task task = task_of(p, number, 1);
    part_index = task.part;
    const KernelPart& part = p.parts[task.part];
    const SetPlace place = place_of_set(part, task.set);
    const int first = place.number * p.rows;
    heads = static_cast<uint32_t>(first) << 8 | static_cast<uint32_t>(place.exists ? min(p.rows, part.heads - first) : 0) << 4 |
            static_cast<uint32_t>(place.token);
    unit = packed(unit_of<N>(p, part, task.unit));
    const Token t = token_at(p, (blockIdx.x << p.block_tokens) + place.token);
    source = part.in + uint64_t{t.token} * static_cast<uint32_t>(part.in_token) +
             uint64_t{static_cast<uint32_t>(first)} * static_cast<uint32_t>(part.in_head);
    if (p.batch > 1) source += uint64_t{t.batch} * static_cast<uint32_t>(part.in_batch);
    ptx::keep(source);
  }

  __device__ __forceinline__ void prefetch(const PipelineKernelParams& p) const {
    const KernelPart& part = p.parts[part_index];
#pragma unroll
    for (int r = 0; r < kFastRows; ++r) {  // a sector of 32 bytes by the lane that begins it
      if (r >= count()) break;
      if (first_chunk() * sizeof(T) % 32 == 0) ptx::prefetch_global_l2(row(part, r) + first_chunk());
      if (second_chunk() * sizeof(T) % 32 == 0) ptx::prefetch_global_l2(row(part, r) + second_chunk());
    }
    if (blockIdx.x == 0 && part.norm && part.weight != nullptr) {  // what all blocks read, once
      const int size = part.wide_weight ? 4 : sizeof(T);
      ptx::prefetch_global_l2(part.weight + first_chunk() * size);
      ptx::prefetch_global_l2(part.weight + second_chunk() * size);
    }
  }

  // A lane without a row of its own reads the first of its set's, or another's, and writes nothing.
  __device__ __forceinline__ void fetch(const PipelineKernelParams& p, const char*) {
    const KernelPart& part = p.parts[part_index];
#pragma unroll
    for (int r = 0; r < kFastRows; ++r) {
      if (r > 0 && r >= count()) break;
      a[r] = load<T, N>(row(part, r) + first_chunk());
      b[r] = load<T, N>(row(part, r) + second_chunk());
    }
  }

  __device__ __forceinline__ void finish(const PipelineKernelParams& p, const char* shared) const {
    const KernelPart& part = p.parts[anew(part_index)];
    Real inverse[kFastRows] = {};
    if (part.norm) find_inverses(part, inverse);
    const TokenState& state = state_of(p, shared, token());
    const uint32_t flags = flags_of(state);
    if (count() == 0 || (unit & kHasA) == 0 || (flags & part.stopping) != 0) return;
    char* const out = first_target_of(part, state) + int64_t{first_head()} * part.out_head;
    const bool padding = (flags & kPadding) != 0, rotates = (unit & kUnitTurns) != 0 && (flags & kTurns) != 0;
    const bool norm = part.norm && !padding, scaled = part.scaled && !padding;
    const bool passes = !rotates && !norm && !scaled;
    if (passes && !part.float8) {
      if (!part.in_place) pass(part, out);
    } else if (part.float8) {
      const bool any_nan = passes && !part.quantised && has_nan();
      work<E4m3>(p, part, shared, out, inverse, norm, rotates, scaled ? &state.scale : nullptr);
      if (any_nan) pass_nans(p, shared);
    } else {
      work<T>(p, part, shared, out, inverse, norm, rotates, scaled ? &state.scale : nullptr);
    }
  }

 private:
  using Real = RealOf<T>;

  // A lane's unit in one register: its chunks begin before channel 8192. Its heads in another.
  static constexpr uint32_t kMask = 8191, kUnitTurns = 1u << 29, kHasA = 1u << 30, kHasB = 1u << 31;
  __device__ __forceinline__ static uint32_t packed(const Unit& unit) {
    return static_cast<uint32_t>(unit.a) | static_cast<uint32_t>(unit.b) << 13 | (unit.turns ? kUnitTurns : 0) | (unit.has_a ? kHasA : 0) |
           (unit.has_b ? kHasB : 0);
  }
  __device__ __forceinline__ uint32_t first_chunk() const { return unit & kMask; }
  __device__ __forceinline__ uint32_t second_chunk() const { return unit >> 13 & kMask; }
  __device__ __forceinline__ int token() const { return static_cast<int>(heads & 15); }  // of the block's
  __device__ __forceinline__ int count() const { return static_cast<int>(heads >> 4 & 15); }
  __device__ __forceinline__ int first_head() const { return static_cast<int>(heads >> 8); }
  __device__ __forceinline__ const T* row(const KernelPart& part, int r) const {
    return reinterpret_cast<const T*>(source + r * static_cast<uint32_t>(part.in_head));
  }
  __device__ __forceinline__ Unit chunks() const {
    return {false, (unit & kHasA) != 0, (unit & kHasB) != 0, static_cast<int>(first_chunk()), static_cast<int>(second_chunk())};
  }

  __device__ __forceinline__ void find_inverses(const KernelPart& part, Real (&inverse)[kFastRows]) const {
    double sum[kFastRows];
#pragma unroll
    for (int r = 0; r < kFastRows; ++r) {
      Real x[N], y[N];
      widen(a[r], x), widen(b[r], y);
      sum[r] = sum_of_squares(chunks(), x, y);
    }
#pragma unroll 1
    for (int by = (1 << part.group) / 2; by > 0; by /= 2) {
#pragma unroll
      for (int r = 0; r < kFastRows; ++r) sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], by);
    }
#pragma unroll
    for (int r = 0; r < kFastRows; ++r) inverse[r] = inverse_root<Real>(part, sum[r]);
  }

  // What is neither normed nor turned nor scaled: as it is, bit for bit.
  __device__ __forceinline__ void pass(const KernelPart& part, char* out) const {
    const Unit at = chunks();
#pragma unroll
    for (int r = 0; r < kFastRows; ++r, out += part.out_head) {
      if (r > 0 && r >= count()) return;
      store(reinterpret_cast<T*>(out) + at.a, a[r]);
      if (at.has_b) store(reinterpret_cast<T*>(out) + at.b, b[r]);
    }
  }

  // What passes into float8 is converted, and a NaN keeps its sign.
  __device__ __forceinline__ bool has_nan() const {
    bool any = false;
#pragma unroll
    for (int r = 0; r < kFastRows; ++r) {
      if (r > 0 && r >= count()) break;
      Real x[N], y[N];
      widen(a[r], x), widen(b[r], y);
#pragma unroll
      for (int i = 0; i < N; ++i) any |= x[i] != x[i] || y[i] != y[i];
    }
    return any;
  }

  // Rare, so that it finds and reads the rows again: those who call it need no registers for it.
  __device__ __noinline__ static void pass_nans(const PipelineKernelParams& p, const char* shared) {
    const HeldRows rows(p, first_task_of(p));
    const KernelPart& part = p.parts[rows.part_index];
    char* out = first_target_of(part, state_of(p, shared, rows.token())) + int64_t{rows.first_head()} * part.out_head;
    for (int r = 0; r < rows.count(); ++r, out += part.out_head) {
      for (int i = 0; i < ((rows.unit & kHasB) != 0 ? 2 * N : N); ++i) {
        const int channel = static_cast<int>(i < N ? rows.first_chunk() : rows.second_chunk()) + i % N;
        const T element = rows.row(part, r)[channel];
        float x = widen(element);
        if constexpr (std::is_same_v<T, __half>) keep_nan(element, &x);
        if (x != x) store_nan<T>(x, part.out_dtype, out, channel);
      }
    }
  }

  template <class Out>
  __device__ __forceinline__ void work(const PipelineKernelParams& p, const KernelPart& part, const char* shared, char* out,
                                       const Real (&inverse)[kFastRows], bool norm, bool rotates, const float* scale) const {
    stay_a_branch();
    const Unit at = chunks();
    const int lane = anew(static_cast<int>(threadIdx.x)) & ((1 << part.group) - 1);
    const int angles = token() * p.token_angles + lane * static_cast<int>(sizeof(Real)) * (N / 2);
#pragma unroll
    for (int r = 0; r < kFastRows; ++r, out += part.out_head) {
      if (r > 0 && r >= count()) return;
      Real x[N], y[N];
      widen(a[r], x), widen(b[r], y);
      if (norm) apply_norm<T>(part, inverse[r], 0, at, x, y);
      if (rotates) {
        if (p.in_interleaved) {
          turn<true>(p, shared + anew(angles), x, y);
        } else {
          turn<false>(p, shared + anew(angles), x, y);
        }
      }
      if (scale != nullptr) multiply(static_cast<Real>(*scale), x, y);
      if constexpr (!std::is_same_v<Out, T>) multiply(static_cast<Real>(part.factor), x, y);
      store_as<Out>(out, at, x, y);
    }
  }

  // Interleaved chunks hold the members of a pair side by side, N / 2 pairs each; halves one member each.
  template <bool interleaved>
  __device__ __forceinline__ static void turn(const PipelineKernelParams& p, const char* angles, Real (&x)[N], Real (&y)[N]) {
    stay_a_branch();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const char* const from = angles + half * p.half_plane;
      const Chunk<Real, N / 2> cos = load_shared<Real, N / 2>(from), sin = load_shared<Real, N / 2>(from + p.plane);
#pragma unroll
      for (int i = 0; i < N / 2; ++i) {
        Real& first = interleaved ? (half == 0 ? x : y)[2 * i] : x[half * (N / 2) + i];
        Real& second = interleaved ? (half == 0 ? x : y)[2 * i + 1] : y[half * (N / 2) + i];
        const Real turned = first * cos.at[i] - second * sin.at[i];
        second = second * cos.at[i] + first * sin.at[i];
        first = turned;
      }
    }
  }

  int part_index;
  uint32_t heads;      // of the lane: the first, how many, and the block's token
  uint32_t unit;       // packed
  const char* source;  // the first row
  Chunk<T, N> a[kFastRows], b[kFastRows];
};

template <class T, int N>
__global__ void __launch_bounds__(kPipelineThreads, kFastBlocks) pipeline_fast(const __grid_constant__ PipelineKernelParams p) {
  extern __shared__ __align__(16) char shared[];
  HeldRows<T, N> rows(p, first_task_of(p));
  begin_block<Where::ids, N, RealOf<T>>(p, shared, &rows);
  rows.finish(p, shared);
  report_tokens(p, shared);
}

}  // namespace rope
